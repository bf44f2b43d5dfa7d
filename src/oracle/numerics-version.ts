/**
 * Which set of bits this package computes.
 * @module
 */

/** Raised, with a reason, when any digest of logits changes; receipts of different numbers are not expected to agree. */
export const NUMERICS_VERSION = 1;
