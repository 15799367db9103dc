// What the server knows: requests, and the next screens and pictures fetched ahead.

const SCREENS_KEPT = 24;
const PICTURES_KEPT = 10;
const screens = new Map(); // position -> promise of a screen
const pictures = new Map(); // address -> {image, ready}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    const rest = options.method === "POST" ? " before is kept; of this one it is not known." : " is kept.";
    const error = new Error(`The server does not answer. Is it still running? What was decided${rest}`);
    throw Object.assign(error, { lost: true });
  }
  const text = await response.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = { error: text.slice(0, 300) || `status ${response.status}` };
  }
  return { status: response.status, body };
}

export async function get(path) {
  const { status, body } = await request(path);
  if (status !== 200) throw new Error(body.error);
  return body;
}

export function post(path, body) {
  return request(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
}

function keep(map, key, value, most) {
  map.set(key, value);
  for (const old of map.keys()) {
    if (map.size <= most) break;
    map.delete(old);
  }
}

export function readScreen(position) {
  const known = screens.get(position);
  if (known) return known;
  const promise = get(`/api/issue/${position}`);
  keep(screens, position, promise, SCREENS_KEPT);
  promise.catch(() => screens.delete(position));
  return promise;
}

// A picture, whose `ready` tells when it can be drawn: true, or false where it cannot be had.
export function readPicture(address) {
  if (!address) return { image: null, ready: Promise.resolve(false) };
  const known = pictures.get(address);
  if (known) {
    pictures.delete(address);
    pictures.set(address, known);
    return known;
  }
  const image = new Image();
  image.src = address;
  const picture = { image, ready: image.decode().then(() => true, () => false) };
  keep(pictures, address, picture, PICTURES_KEPT);
  picture.ready.then((fine) => fine || pictures.delete(address));
  return picture;
}

export async function prefetch(positions) {
  for (const position of positions) {
    try {
      const screen = await readScreen(position);
      await readPicture(screen.picture.address).ready;
    } catch {
      return; // it will be asked for again when it is needed, and said then
    }
  }
}

// What was fetched ahead and is no longer true: all screens of the image of a change.
export function forget(changes) {
  const images = new Set(changes.map((change) => change.image));
  for (const [position, promise] of screens) {
    promise.then((screen) => images.has(screen.picture.index) && screens.get(position) === promise && screens.delete(position), () => {});
  }
}
