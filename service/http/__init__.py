"""FastAPI lives here: routes parse a request, call the application and render the response."""
