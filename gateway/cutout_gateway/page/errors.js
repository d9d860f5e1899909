/** What went wrong, in words for people. The API answers errors as google.rpc.Status. */

const TYPE = "type.googleapis.com/google.rpc.";

/** A refusal of the API, or no answer at all. */
export class ApiError extends Error {
  /**
   * @param {number} status The HTTP status; 0 when there was no answer.
   * @param {object} body A google.rpc.Status; anything else is taken for none.
   */
  constructor(status, body) {
    super(typeof body?.message === "string" ? body.message : `The server answered ${status} without a word.`);
    this.name = "ApiError";
    this.status = status;
    const details = Array.isArray(body?.details) ? body.details : [];
    const detail = (name) => details.find((each) => each["@type"] === TYPE + name);
    this.reason = detail("ErrorInfo")?.reason ?? "";
    /** @type {{field: string, description: string}[]} Every wrong field. */
    this.violations = detail("BadRequest")?.fieldViolations ?? [];
    this.requestId = detail("RequestInfo")?.requestId ?? "";
    this.retryAfterSeconds = parseFloat(detail("RetryInfo")?.retryDelay ?? "0") || 0;
  }

  /** Whether the server, or the way to it, is gone for now. */
  get unreachable() {
    return this.status === 0 || [502, 503, 504].includes(this.status) && this.reason !== "DEADLINE_EXCEEDED";
  }

  get needsKey() {
    return this.status === 401;
  }

  get pictureForgotten() {
    return ["IMAGE_NOT_FOUND", "IMAGE_ELSEWHERE"].includes(this.reason);
  }

  get busy() {
    return this.status === 429;
  }
}

/** Whether a request was given up by the page itself. */
export const isAbort = (error) => error?.name === "AbortError";

/**
 * An error as a headline and lines below it, one for each wrong field.
 * @returns {{title: string, lines: {field: string, text: string}[], id: string}}
 */
export function explain(error) {
  if (!(error instanceof ApiError)) return { title: error.message, lines: [], id: "" };
  const lines = error.violations.map(({ field, description }) => ({ field, text: description }));
  const title = lines.length ? "The server did not accept this:" : sentence(error.message);
  return { title, lines, id: error.requestId };
}

function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?:]$/.test(begun) ? begun : `${begun}.`;
}
