// The agent's API: questions with an answer, and streams of answers.

const TOKEN = "flowagent-token";
const RETRY_SECONDS = [1, 2, 4, 8, 15];
const POLL_SECONDS = 5;

/** What went wrong: `status` (0 where the agent cannot be reached), `path` and `position` as the API says. */
export class ApiError extends Error {
  constructor(status, fields) {
    super(fields.error);
    this.status = status;
    this.path = fields.path;
    this.position = fields.position;
  }
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

async function ask(path, parameters, signal) {
  const query = new URLSearchParams(parameters ?? {}).toString();
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(query ? `${path}?${query}` : path, { signal, headers });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { error: "The agent does not answer." });
  }
  if (response.ok) return response;
  const fields = await response.json().catch(() => ({ error: `The agent answered ${response.status}.` }));
  throw new ApiError(response.status, fields);
}

/** The answer to one question; raises ApiError, or AbortError where the signal says so. */
export async function get(path, parameters, signal) {
  return (await ask(path, parameters, signal)).json();
}

/**
 * Answers as they change, until the signal ends it: `result(answer)` each time, `lost(error)` when the connection
 * broke and is tried again. Where the agent has no stream to spare it is asked every few seconds. Raises ApiError
 * where the question itself is wrong.
 */
export async function follow(parameters, { result, lost }, signal) {
  let failures = 0;
  while (!signal.aborted) {
    try {
      const response = await ask("/api/v1/stream", parameters, signal);
      for await (const { event, data } of events(response.body)) {
        if (event === "problem") throw new ApiError(400, data);
        if (event !== "result") continue;
        failures = 0;
        result(data);
      }
      lost(new ApiError(0, { error: "The agent ended the stream." }));
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status === 503) {
        result(await get("/api/v1/query", parameters, signal));
        await pause(POLL_SECONDS, signal);
        continue;
      }
      if (error instanceof ApiError && error.status) throw error;
      lost(error);
    }
    await pause(RETRY_SECONDS[Math.min(failures++, RETRY_SECONDS.length - 1)], signal);
  }
}

/** Resolves after some seconds, or at once when the signal comes. */
export function pause(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** Server-Sent Events of a body, their data read as JSON. */
export async function* events(body) {
  let text = "";
  for await (const piece of pieces(body.pipeThrough(new TextDecoderStream()))) {
    text += piece;
    const blocks = text.split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const fields = block.split(/\r?\n/).map((line) => /^(\w+): ?(.*)$/.exec(line));
      const named = (name) => fields.filter((field) => field?.[1] === name).map((field) => field[2]);
      const data = named("data").join("\n");
      if (data) yield { event: named("event")[0] ?? "message", data: JSON.parse(data) };
    }
  }
}

// Streams are not iterable in every browser.
async function* pieces(stream) {
  const reader = stream.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}
