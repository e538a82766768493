// The picture that is edited: read from a file, and how it is cut to the size of the image.

const ACCEPTED = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif" };
const MAX_PIXELS = 16 * 2 ** 20; // of a canvas on a phone: its mask has the same size
const MAX_SIDE = 2048; // of a picture that is drawn smaller, as the service does by itself

export class UnreadablePicture extends Error {}

/** `{key, name, blob, width, height}` of a file or a Blob, upright. Throws UnreadablePicture.
 *
 * The file itself is kept, so that a copied command with the same file draws the same image. One in a format
 * that the service does not read, or too large to be painted on, is written anew as a PNG.
 */
export async function readPicture(blob, name = blob?.name ?? "picture") {
  const image = await decoded(blob);
  const { naturalWidth: width, naturalHeight: height } = image;
  const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
  if (blob.type in ACCEPTED && width * height <= MAX_PIXELS) {
    return { key, name: safeName(name, ACCEPTED[blob.type]), blob, width, height };
  }
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  const canvas = canvasOf(Math.round(width * scale), Math.round(height * scale));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const drawn = { blob: await pngOf(canvas), width: canvas.width, height: canvas.height };
  return { key, name: safeName(name, "png"), ...drawn };
}

/** The picture as an image element, decoded. Throws UnreadablePicture. */
export async function decoded(blob) {
  const url = blob ? URL.createObjectURL(blob) : "";
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    return image;
  } catch {
    throw new UnreadablePicture("This browser cannot read that as a picture; PNG, JPEG, WebP and GIF are.");
  } finally {
    URL.revokeObjectURL(url);
  }
}

export const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

export const pngOf = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

/** A name that a shell reads as one word, and a browser saves as it is. */
function safeName(name, ending) {
  const stem = name
    .replace(/\.[^.]*$/, "")
    .normalize("NFKD")
    .replace(/\p{M}/gu, "") // accents
    .replace(/[^a-z0-9._-]+/gi, "-")
    .replace(/^[-.]+|[-.]+$/g, "");
  return `${stem.slice(0, 60) || "picture"}.${ending}`;
}

/** [width, height] of the image: what the size says, where it says auto the enabled size nearest to the picture. */
export function imageSize(size, picture, model) {
  if (size !== "auto") return size.split("x").map(Number);
  if (!picture || !model) return (model?.default_size ?? "1x1").split("x").map(Number);
  const logRatio = (width, height) => Math.log(width / height);
  const area = picture.width * picture.height;
  const distances = model.sizes.map((name) => {
    const [width, height] = name.split("x").map(Number);
    const ofRatio = Math.abs(logRatio(width, height) - logRatio(picture.width, picture.height));
    const ofArea = Math.abs(Math.log((width * height) / area));
    return { size: [width, height], rank: [Math.round(10 * ofRatio), ofArea, -width * height] };
  });
  distances.sort((a, b) => a.rank[0] - b.rank[0] || a.rank[1] - b.rank[1] || a.rank[2] - b.rank[2]);
  return distances[0].size;
}

/** The CSS that shows in a frame of the image's shape what is left of the picture, cut at its centre. */
export function cutStyle(picture, [width, height]) {
  const ratio = width / height / (picture.width / picture.height);
  const [across, down] = [Math.min(1, ratio), Math.min(1, 1 / ratio)]; // the shares of the picture that stay
  const percent = (share) => `${100 * share}%`;
  return {
    width: percent(1 / across),
    height: percent(1 / down),
    left: percent((1 - 1 / across) / 2),
    top: percent((1 - 1 / down) / 2),
  };
}
