"""The bundled model: a renderer teaches it, its weights ship inside the package."""
