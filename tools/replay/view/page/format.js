// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

export const number = (value) => whole.format(value);
export const mean = (value) => (value < 10 ? one.format(value) : whole.format(value));
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** Seconds since the start of the run, as precise as the place needs. */
export function clock(seconds) {
  const sign = seconds < 0 ? "-" : "";
  const rest = Math.abs(seconds);
  if (rest < 60) return `${sign}${rest.toFixed(3)} s`;
  const hours = Math.floor(rest / 3600);
  const minutes = String(Math.floor((rest % 3600) / 60)).padStart(hours ? 2 : 1, "0");
  const left = (rest % 60).toFixed(3).padStart(6, "0");
  return `${sign}${hours ? `${hours}:` : ""}${minutes}:${left}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds >= 100) return `${number(seconds)} s`;
  return seconds >= 1 ? `${seconds.toFixed(2)} s` : `${(seconds * 1000).toFixed(1)} ms`;
}

export const percent = (part, total) => (total ? `${one.format((100 * part) / total)} %` : "–");
