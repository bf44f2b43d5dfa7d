/**
 * Ceilings of the GGUF reader. A count in a file is a request for memory or time; each of these says how much of it
 * we grant and why that is enough. Below the ceilings, counts are still bounded by the bytes left in the file.
 * @module
 */

/** First range read. Holds the whole header of a model with a 32k vocabulary, and one round trip over HTTP. */
export const FIRST_READ_BYTES = 1 << 20;

/**
 * Everything before the tensor data. The largest vocabulary in use (256k tokens with merges) takes about 15 MB;
 * a header is kept in memory while it is parsed.
 */
export const MAX_HEADER_BYTES = 256 << 20;

/** One string. A whole tokenizer.json may be embedded (tens of MB); a chat template has a few KB. */
export const MAX_STRING_BYTES = 64 << 20;

/** Keys are dotted names; upstream's longest is below 100 bytes, its own ceiling is 65535. */
export const MAX_KEY_BYTES = 65535;

/** Tensor names: mainline refuses 64 bytes and more, the fork does not, so there is room for more here. */
export const MAX_NAME_BYTES = 1024;

/** Real files carry 20 to 60 pairs. */
export const MAX_KEYS = 1 << 16;

/** Real files carry up to a few thousand tensors (mixtures of experts). */
export const MAX_TENSORS = 1 << 16;

/** Elements of one array. The largest real ones are merges, about 300 thousand. */
export const MAX_ARRAY_LENGTH = 1 << 24;

/** `ggml` tensors have at most four dimensions. */
export const MAX_DIMENSIONS = 4;

/** Shards of a split file. The name pattern would allow 99999, each of which is an open file. */
export const MAX_SHARDS = 1024;
