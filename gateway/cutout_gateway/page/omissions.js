/** What was left out, and what became of sentences, in words: nothing that the server says is lost. */

const REASONS = {
  REASON_EMPTY: "without a pixel above the threshold",
  REASON_BELOW_MIN_AREA: "smaller than the least area",
  REASON_DUPLICATE: "that overlap better ones",
  REASON_BEYOND_MAX_OBJECTS: "beyond the most objects",
  REASON_BELOW_PREDICTED_IOU: "below the least predicted IoU",
  REASON_BELOW_STABILITY: "below the least stability",
  REASON_CUT_OFF: "cut off at an edge",
  REASON_SAME_PHRASE: "phrases that read like an earlier one",
};

/** @param {object[]} omissions Of a Segmentation. */
export function omitted(omissions) {
  if (!omissions.length) return [];
  const told = omissions.map(({ reason, count, threshold, best }) => {
    const limits = threshold === undefined ? "" : ` ${round(threshold)} (best ${round(best)})`;
    return `${count} ${REASONS[reason] ?? reason}${limits}`;
  });
  return [`Left out: ${told.join(", ")}.`];
}

/** @param {object} [rewriting] Of a Segmentation. */
export function rewritten(rewriting) {
  if (!rewriting) return [];
  const words = rewriting.phrases.map(({ phrase }) => phrase).join(", ");
  const why = rewriting.failure ? ` The language model could not help: ${rewriting.failure}.` : "";
  return [`Looked for ${words}.${why}`];
}

const round = (value) => Number(value.toFixed(3));
