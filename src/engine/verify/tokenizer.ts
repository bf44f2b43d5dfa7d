/**
 * Verdicts on vocabulary, pre-tokenizer, special tokens and chat template: what makes a sound model repeat itself, never stop, or
 * answer worse than it could.
 * @module
 */

import { BitnetError } from '../../errors.ts';
import type { GgufFile } from '../../formats/gguf/types.ts';
import { bad, ok, type Verdict, warn } from '../../model/verify/verdict.ts';
import { createTokenizer, renderChat, type Tokenizer, TokenType } from '../../tokenizer/index.ts';
import { recognisePreTokenizer, sampleHash } from '../../tokenizer/recognise.ts';
import { readTokenizerSpec } from '../read-tokenizer.ts';

/** `rows`: of the embedding, where that is known. */
export async function tokenizerVerdicts(gguf: GgufFile, rows: number | undefined, pre?: string): Promise<Verdict[]> {
  let tokenizer: Tokenizer;
  try {
    tokenizer = createTokenizer(readTokenizerSpec(gguf, pre));
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    return [bad('tokenizer', error.message, error.facts.hint ?? 'take a file whose vocabulary was converted with it')];
  }
  return [
    vocabularyVerdict(tokenizer, rows),
    ...coverageVerdicts(gguf, tokenizer),
    preVerdict(tokenizer),
    beginVerdict(tokenizer),
    stopVerdict(tokenizer),
    ...(await templateVerdicts(tokenizer)),
  ];
}

/** A number for the texts of a vocabulary and their order. */
export function vocabularyHash(tokenizer: Tokenizer): number {
  return sampleHash(tokenizer.spec.tokens, 1, tokenizer.vocabSize);
}

function vocabularyVerdict({ spec, vocabSize }: Tokenizer, rows: number | undefined): Verdict {
  const kind = spec.model === 'llama' ? 'SentencePiece' : 'byte-level BPE';
  const merges = spec.merges.length === 0 ? '' : `, ${spec.merges.length} merges`;
  const fact = `${kind}, ${vocabSize} tokens${merges}`;
  const doubles = countDoubles(spec.tokens);
  if (doubles > 0) {
    return warn(
      'vocabulary',
      `${fact}; ${doubles} tokens have the text of another`,
      'the later ones can never be written; harmless if few',
    );
  }
  if (rows !== undefined && rows > vocabSize) {
    return warn(
      'vocabulary',
      `${fact}, but the embedding has ${rows} rows`,
      'harmless where a vocabulary was padded; such ids print nothing',
    );
  }
  return ok('vocabulary', rows === undefined ? fact : `${fact}, one for each row of the embedding`);
}

/** Empty texts are holes, and counted as doubles of each other. */
function countDoubles(tokens: readonly Uint8Array[]): number {
  const latin1 = new TextDecoder('latin1');
  return tokens.length - new Set(tokens.map((token) => latin1.decode(token))).size;
}

/** Whether every byte can be written, and whether ranks and kinds of tokens are there at all. */
function coverageVerdicts(gguf: GgufFile, tokenizer: Tokenizer): Verdict[] {
  const { spec } = tokenizer;
  const found: Verdict[] = [];
  const written = new Set<number>();
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    if (spec.types[id] !== TokenType.NORMAL && spec.types[id] !== TokenType.BYTE) continue;
    const bytes = tokenizer.tokenBytes(id);
    if (bytes.length === 1) written.add(bytes[0]);
  }
  // C0, C1 and F5 to FF occur in no UTF-8 text; some vocabularies leave them out.
  const needed = Array.from({ length: 256 }, (_, byte) => byte).filter(
    (byte) => byte < 0xc0 || (byte > 0xc1 && byte < 0xf5),
  );
  const missing = needed.filter((byte) => !written.has(byte));
  if (missing.length > 0) {
    const which = `${missing.length} bytes have no token, the first 0x${missing[0].toString(16).padStart(2, '0')}`;
    found.push(warn('bytes', `${which}: text with them is lost`, 'take a file whose vocabulary is whole'));
  }
  const lacks = (key: string) => !gguf.metadata.has(`tokenizer.ggml.${key}`);
  if (spec.model === 'llama' && lacks('scores')) {
    found.push(bad('scores', 'missing: SentencePiece cannot tell which pieces to join', 'convert the model again'));
  }
  if (lacks('token_type')) {
    found.push(warn('token types', 'missing: control tokens in text are not recognised', 'convert the model again'));
  }
  return found;
}

function preVerdict({ spec }: Tokenizer): Verdict {
  if (spec.model === 'llama') return ok('pre-tokenizer', 'none: SentencePiece needs none');
  const { name, origin } = spec.pre;
  const known = recognisePreTokenizer(spec.tokens, spec.merges.length);
  if (known !== undefined && known !== name) {
    return bad('pre-tokenizer', `${name}, but the vocabulary was trained with ${known}`, `--pre ${known}`);
  }
  if (origin === 'recognised') return ok('pre-tokenizer', `${name}, by the vocabulary; the file names none`);
  if (name === 'default') {
    return warn(
      'pre-tokenizer',
      `${name}: punctuation and contractions are cut as no published model was trained`,
      '--pre with the right name',
    );
  }
  return ok('pre-tokenizer', `${name}, ${origin === 'forced' ? 'forced by --pre' : 'named by the file'}`);
}

function beginVerdict(tokenizer: Tokenizer): Verdict {
  const { bosId, addBos } = tokenizer.spec;
  if (bosId === undefined) return ok('begin token', 'none');
  const token = `${bosId} ${tokenizer.describe(bosId)}`;
  if (tokenizer.spec.types[bosId] === TokenType.NORMAL) {
    return warn('begin token', `${token} is an ordinary piece of text`, 'is tokenizer.ggml.bos_token_id right?');
  }
  return ok('begin token', `${token}, ${addBos ? 'put before every prompt' : 'not added by itself'}`);
}

function stopVerdict(tokenizer: Tokenizer): Verdict {
  const { eogIds, spec } = tokenizer;
  if (eogIds.length === 0) {
    return bad(
      'stop tokens',
      'none: a generation ends only by its limit',
      'set tokenizer.ggml.eos_token_id, or use --stop',
    );
  }
  const list = eogIds.map((id) => `${id} ${tokenizer.describe(id)}`).join(', ');
  const odd = eogIds.find((id) => spec.types[id] === TokenType.NORMAL);
  if (odd !== undefined) {
    return warn('stop tokens', `${list}; ${odd} is an ordinary piece of text`, 'is tokenizer.ggml.eos_token_id right?');
  }
  return ok('stop tokens', list);
}

const QUESTION = 'What is seven times eight';
const ANSWER = 'It is fifty-six';

async function templateVerdicts(tokenizer: Tokenizer): Promise<Verdict[]> {
  const template = tokenizer.spec.chatTemplate;
  if (template === undefined) return [ok('chat template', 'none: a base model, which continues text')];
  const { bosId, eosId } = tokenizer.spec;
  const text = (id: number | undefined) =>
    id === undefined ? undefined : new TextDecoder().decode(tokenizer.tokenBytes(id, true));
  const variables = { bosToken: text(bosId), eosToken: text(eosId), now: new Date(0) };
  const messages = [
    { role: 'user', content: QUESTION },
    { role: 'assistant', content: ANSWER },
  ];
  let asked: string;
  let answered: string;
  try {
    asked = await renderChat(template.source, messages.slice(0, 1), variables);
    answered = await renderChat(template.source, messages, { ...variables, addGenerationPrompt: false });
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    return [bad('chat template', error.message, '--chat-template or --chat-template-file with a good one')];
  }
  if (!asked.includes(QUESTION) || !answered.includes(ANSWER)) {
    return [
      bad('chat template', 'renders a conversation without what was said in it', '--chat-template with a good one'),
    ];
  }
  const unknown = [...asked.matchAll(/<\|[\w.-]+\|>|<\/?s>|<(?:start|end)_of_turn>/g)].map(([token]) => token);
  const foreign = unknown.find((token) => tokenizer.idOf(token) === undefined);
  if (foreign !== undefined) {
    return [
      warn(
        'chat template',
        `writes ${foreign}, which the vocabulary does not have`,
        '--chat-template of the model this vocabulary is from',
      ),
    ];
  }
  const origin =
    template.origin === 'recognised'
      ? "the file's own is only a mark; the published one is used"
      : "the file's own, it renders";
  const after = tokenizer.partition(answered.slice(answered.indexOf(ANSWER) + ANSWER.length), true);
  const end = after.find((fragment) => typeof fragment === 'number');
  if (typeof end === 'number' && after.indexOf(end) <= 1 && !tokenizer.isEog(end)) {
    const finding = `${origin}, but ${tokenizer.describe(end)}, which ends an answer, is no stop token`;
    return [warn('chat template', finding, `--stop ${tokenizer.describe(end)}`)];
  }
  return [ok('chat template', origin)];
}
