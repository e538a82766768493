// Asks one question after the other. Answers go to the server at once, which keeps them.
const at = (id) => document.getElementById(id);
let number = null;
let isWaiting = false;

async function send(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}

function show(question) {
  number = question.number;
  const isAsking = number !== null;
  at("count").textContent = `${question.num_votes} of ${question.num_questions} answered`;
  for (const id of ["ask", "equal"]) at(id).hidden = !isAsking;
  at("done").hidden = isAsking;
  at("undo").disabled = question.num_votes === 0;
  if (!isAsking) return;
  at("prompt").textContent = question.prompt;
  at("style").src = `/image/${number}/style`;
  for (const side of ["left", "right"]) at(side).querySelector("img").src = `/image/${number}/${side}`;
}

async function change(path, body) {
  if (isWaiting) return;
  isWaiting = true;
  try {
    show(await send(path, body));
    at("scores").hidden = true;
  } catch (error) {
    at("count").textContent = error.message;
  } finally {
    isWaiting = false;
  }
}

const vote = (choice) => number !== null && change("/vote", { number, choice });

function row(cells, tag) {
  const line = document.createElement("tr");
  for (const [index, text] of cells.entries()) {
    const cell = document.createElement(index === 0 || tag === "th" ? "th" : "td");
    cell.textContent = text;
    line.append(cell);
  }
  return line;
}

async function showScores() {
  const found = Object.entries(await send("/scores"));
  const table = document.createElement("table");
  table.append(row(["drawn by", "score", "from", "to"], "th"));
  for (const [name, { value, low, high }] of found) {
    table.append(row([name, ...[value, low, high].map((score) => score.toFixed(2))], "td"));
  }
  const text = document.createElement("p");
  text.textContent = found.length
    ? "Bradley-Terry scores, whose mean is 0, with intervals of 95 %. A difference of 1 means preferred in 73 % of pairs."
    : "There are no answers yet.";
  at("scores").replaceChildren(text, ...(found.length ? [table] : []));
  at("scores").hidden = false;
}

for (const choice of ["left", "right", "equal"]) at(choice).addEventListener("click", () => vote(choice));
at("undo").addEventListener("click", () => change("/undo", {}));
at("show").addEventListener("click", showScores);
const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "equal" };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (keys[event.key]) vote(keys[event.key]);
  else if (event.key === "Backspace") change("/undo", {});
  else return;
  event.preventDefault();
});
send("/question").then(show);
