// The results of before, in IndexedDB: nothing leaves the browser.
//
// Results are kept one by one. A picture that several of them edited is kept once, by its key.

const RESULTS = "results";
const PICTURES = "pictures";
const MAX_RESULTS = 200;

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function stores(mode) {
  const opening = indexedDB.open("atelier", 2);
  opening.onupgradeneeded = ({ oldVersion }) => {
    if (oldVersion < 1) opening.result.createObjectStore(RESULTS, { keyPath: "id", autoIncrement: true });
    opening.result.createObjectStore(PICTURES, { keyPath: "key" });
  };
  const database = await promised(opening);
  const transaction = database.transaction([RESULTS, PICTURES], mode);
  transaction.oncomplete = () => database.close();
  return { results: transaction.objectStore(RESULTS), pictures: transaction.objectStore(PICTURES) };
}

/** The newest first. */
export async function loadResults() {
  const { results, pictures } = await stores("readonly");
  const [kept, found] = await Promise.all([promised(results.getAll()), promised(pictures.getAll())]);
  const byKey = new Map(found.map((picture) => [picture.key, picture]));
  return kept.reverse().map((result) => withPicture(result, byKey));
}

function withPicture(result, byKey) {
  if (!result.files) return result;
  return { ...result, files: { ...result.files, image: byKey.get(result.files.image) } };
}

/** The result with its ID; the oldest results beyond MAX_RESULTS go. */
export async function keepResult(result) {
  const { results, pictures } = await stores("readwrite");
  const { files } = result;
  if (files) pictures.put(files.image);
  const kept = files ? { ...result, files: { ...files, image: files.image.key } } : result;
  const id = await promised(results.add(kept));
  const ids = await promised(results.getAllKeys());
  const old = ids.slice(0, Math.max(0, ids.length - MAX_RESULTS));
  for (const one of old) results.delete(one);
  if (old.length > 0) await forgetUnusedPictures(results, pictures);
  return { ...result, id };
}

export async function forgetResult(id) {
  const { results, pictures } = await stores("readwrite");
  await promised(results.delete(id));
  await forgetUnusedPictures(results, pictures);
}

async function forgetUnusedPictures(results, pictures) {
  const used = new Set((await promised(results.getAll())).map(({ files }) => files?.image));
  for (const key of await promised(pictures.getAllKeys())) if (!used.has(key)) pictures.delete(key);
}

export async function forgetAll() {
  const { results, pictures } = await stores("readwrite");
  await Promise.all([promised(results.clear()), promised(pictures.clear())]);
}
