// The JSON API under this page. Paths are relative, so that the page works below any prefix.

export class ApiError extends Error {}

async function ask(path, signal) {
  let answer;
  let body;
  try {
    answer = await fetch(path, { signal, headers: { accept: "application/json" } });
    body = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server does not answer; has it ended?");
  }
  if (answer.ok) return body;
  const told = body?.error?.message;
  throw new ApiError(typeof told === "string" ? told : `the server answered ${answer.status}`);
}

const query = (fields) => new URLSearchParams(fields).toString();

export const getRun = () => ask("api/run");
export const getSteps = (from, until, bins, signal) =>
  ask(`api/steps?${query({ from, until, bins })}`, signal);
export const getStep = (step) => ask(`api/step/${step}`);
export const findRequests = (text, signal) => ask(`api/requests?${query({ query: text })}`, signal);
export const getRequest = (id) => ask(`api/request/${encodeURIComponent(id)}`);
export const findNext = (kind, step, direction) =>
  ask(`api/next?${query({ kind, step, direction })}`);

/** Runs `work(argument)` for the newest argument only: what was asked for meanwhile and is out of
 * date by the time its turn comes is never asked. */
export function latestOnly(work) {
  let wanted = null;
  let running = null;
  const run = async () => {
    while (wanted !== null) {
      const argument = wanted;
      wanted = null;
      await work(argument);
    }
    running = null;
  };
  return (argument) => {
    wanted = argument;
    running ??= run();
    return running;
  };
}
