/**
 * How a model on the Hugging Face hub is named:
 *
 *     hf:USER/REPO                 hf:USER/REPO:QUANT          hf:USER/REPO/PATH/IN/IT.gguf
 *     hf:USER/REPO@REVISION        hf:USER/REPO@REVISION:QUANT  ...
 *
 * `hf:` may be left out where nothing but such a name can stand; `hf://` is how other tools write it.
 *
 * Names end up in URLs and, in the cache, in paths. Whatever could leave its folder there is refused here, once, and
 * under the rules of POSIX and Windows both: a cache may be copied.
 * @module
 */

import { BitnetError, show } from '../errors.ts';

export interface HubReference {
  /** `USER/REPO`. */
  readonly repo: string;
  /** Branch, tag or commit. */
  readonly revision: string;
  /** A part of a file's name, e.g. `i2_s`. */
  readonly quant: string | undefined;
  /** A file, by its path in the repository. */
  readonly file: string | undefined;
}

export const DEFAULT_REVISION = 'main';

/** The hub's own ceiling for `USER/REPO`. */
const MAX_NAME = 96;
const MAX_PATH = 1024;

/** Whether the name of a model is one on the hub. */
export function isHubReference(text: string): boolean {
  return /^hf:/i.test(text);
}

/** A branch, tag or commit; of names with slashes only those that the hub itself makes. */
const REVISION = 'refs/(?:pr|convert)/[^/:]+|[^/:]+';
const REFERENCE = new RegExp(`^([^/@:]+/[^/@:]+)(?:@(${REVISION}))?(?::([\\w.-]+)|/(.+))?$`);

/** Reads such a name. */
export function parseHubReference(text: string): HubReference {
  const bare = text.replace(/^hf:(\/\/)?/i, '');
  const [, repo = '', revision = DEFAULT_REVISION, quant, file] = REFERENCE.exec(bare) ?? [];
  // `--` separates user and repository in the cache's folder names: with it inside, two repositories could meet.
  const good = repo.length <= MAX_NAME && !/--|\.\./.test(repo) && /^\w[\w.-]*\/\w[\w.-]*$/.test(repo);
  if (!good) {
    throw new BitnetError('bad-argument', 'not the name of a model on the hub', {
      expected: 'USER/REPO, USER/REPO:QUANT, USER/REPO/FILE or USER/REPO@REVISION',
      got: show(text),
    });
  }
  checkRelativePath(revision, `${repo}: revision`);
  if (file !== undefined) checkRelativePath(file, `${repo}: file`);
  return { repo, revision, quant, file };
}

/** Refuses a path inside a repository (or a name of a revision) that would point out of a folder it is joined to. */
export function checkRelativePath(path: string, where: string): void {
  const parts = path.split(/[/\\]/);
  const good =
    path.length <= MAX_PATH &&
    !path.includes('\\') &&
    // Control characters: NUL ends paths, the others would command a terminal.
    ![...path].some((character) => character < ' ' || (character >= '\x7f' && character < '\xa0')) &&
    parts.every((part) => part !== '' && part !== '.' && part !== '..' && !/^[a-z]:/i.test(part));
  if (!good) {
    throw new BitnetError('bad-argument', 'unsafe path', {
      where,
      expected: 'a path that stays in its folder',
      got: show(path),
    });
  }
}
