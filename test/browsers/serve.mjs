/**
 * A folder as a web site, as far as a page needs it that uses the built package: types of files, ranges, and on request the two
 * headers that make a page cross-origin isolated, without which a browser shares no memory between threads.
 */
import { open, stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize, sep } from 'node:path';

const TYPES = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.json': 'application/json',
};

/**
 * `folders`: beginning of a path -> folder. `routes`: 'POST /line' -> (body) => answer. Listens on a free port of this machine
 * only; resolves to { origin, close }.
 */
export async function serve({ folders, routes = {}, isolated }) {
  const server = createServer((request, response) => {
    response.setHeader('Cache-Control', 'no-store');
    if (isolated) {
      response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
      response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
    }
    answer(request, response, folders, routes).catch((error) => {
      if (!response.headersSent) response.writeHead(error.code === 'ENOENT' ? 404 : 500);
      response.end(String(error.message));
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    close() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

async function answer(request, response, folders, routes) {
  const { pathname } = new URL(request.url, 'http://localhost');
  const route = routes[`${request.method} ${pathname}`];
  if (route !== undefined) {
    const { type = 'text/plain', body = '' } = (await route(await textOf(request))) ?? {};
    response.writeHead(200, { 'Content-Type': type }).end(body);
    return;
  }
  const path = decodeURIComponent(pathname);
  const prefix = Object.keys(folders).find((one) => path.startsWith(one));
  const file = prefix === undefined ? undefined : join(folders[prefix], normalize(path.slice(prefix.length)));
  if (file === undefined || !file.startsWith(folders[prefix].replace(/[\\/]$/, '') + sep)) {
    response.writeHead(404).end();
    return;
  }
  await sendFile(request, response, file);
}

async function sendFile(request, response, file) {
  const { size } = await stat(file);
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const begin = range === null ? 0 : Number(range[1]);
  const end = range === null || range[2] === '' ? size : Math.min(size, Number(range[2]) + 1);
  const headers = {
    'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream',
    'Content-Length': end - begin,
    'Accept-Ranges': 'bytes',
    ...(range === null ? {} : { 'Content-Range': `bytes ${begin}-${end - 1}/${size}` }),
  };
  const handle = await open(file);
  try {
    const { buffer } = await handle.read(Buffer.alloc(end - begin), 0, end - begin, begin);
    response.writeHead(range === null ? 200 : 206, headers).end(buffer);
  } finally {
    await handle.close();
  }
}

async function textOf(request) {
  let text = '';
  for await (const piece of request.setEncoding('utf8')) text += piece;
  return text;
}
