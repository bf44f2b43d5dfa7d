/** Each family of chat templates: the exact text, the token that ends a turn, and what its author refuses. */
import { describe, expect, test } from 'vitest';
import { bpe, getter } from '../../fixtures/tokenizer/vocabularies.ts';
import {
  BITNET_2B4T_TEMPLATE,
  type ChatMessage,
  createTokenizer,
  encodeChat,
  renderChat,
  tokenizerSpecFromMetadata,
  turnEnd,
} from '../../src/tokenizer/index.ts';

const SPECIALS = [
  '<|begin_of_text|>',
  '<|end_of_text|>',
  '<|eot_id|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|im_start|>',
  '<|im_end|>',
  '<|user|>',
  '<|assistant|>',
  '<|system|>',
  '<start_of_turn>',
  '<end_of_turn>',
  '[INST]',
  '[/INST]',
  '</s>',
] as const;
type Special = (typeof SPECIALS)[number];
const idOf = (text: Special) => 257 + SPECIALS.indexOf(text);

/** A byte-level vocabulary with all of these; `eos` is what its file calls the end. */
function tokenizerWith(eos: Special, template?: string) {
  return createTokenizer(
    tokenizerSpecFromMetadata(
      getter({
        ...bpe(
          'gpt-2',
          [' |h'],
          SPECIALS.map((text) => [text, 3] as const),
        ),
        'tokenizer.ggml.bos_token_id': idOf('<|begin_of_text|>'),
        'tokenizer.ggml.eos_token_id': idOf(eos),
        'tokenizer.ggml.add_bos_token': true,
        ...(template === undefined ? {} : { 'tokenizer.chat_template': template }),
      }),
    ),
  );
}

interface Family {
  readonly name: string;
  readonly template: string;
  readonly eos: Special;
  /** Of system "S", user " hi ", assistant "Ho", user "x". Without system where the family knows none. */
  readonly text: string;
  readonly system: boolean;
  readonly end: Special | undefined;
}

const families: Family[] = [
  {
    name: 'BitNet-b1.58-2B-4T',
    template: BITNET_2B4T_TEMPLATE,
    eos: '<|end_of_text|>',
    system: true,
    text: 'System: S<|eot_id|>User: hi<|eot_id|>Assistant: Ho<|eot_id|>User: x<|eot_id|>Assistant: ',
    end: '<|eot_id|>',
  },
  {
    name: 'Llama 3',
    template:
      "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m.role + " +
      "'<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}" +
      "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    eos: '<|end_of_text|>',
    system: true,
    text:
      '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>' +
      '<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>' +
      '<|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>' +
      '<|start_header_id|>user<|end_header_id|>\n\nx<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
    end: '<|eot_id|>',
  },
  {
    name: 'Falcon3',
    template:
      "{%- for m in messages %}{% if m['role'] == 'assistant' and not loop.last %}" +
      "{{ '<|assistant|>\n' + m['content'] + eos_token + '\n' }}{% elif m['role'] == 'assistant' %}" +
      "{{ '<|assistant|>\n' + m['content'] + eos_token }}{% else %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}" +
      "{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
    eos: '<|end_of_text|>',
    system: true,
    text: '<|system|>\nS\n<|user|>\n hi \n<|assistant|>\nHo<|end_of_text|>\n<|user|>\nx\n<|assistant|>\n',
    end: '<|end_of_text|>',
  },
  {
    name: 'ChatML, as Falcon-E and Qwen have it',
    template:
      "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}" +
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    eos: '<|end_of_text|>',
    system: true,
    text:
      '<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n' +
      '<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n',
    end: '<|im_end|>',
  },
  {
    name: 'Gemma',
    template:
      "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" +
      "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}" +
      "{{ raise_exception('Conversation roles must alternate') }}{% endif %}" +
      "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}" +
      "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}" +
      "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    eos: '<|end_of_text|>',
    system: false,
    text:
      '<|begin_of_text|><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n' +
      '<start_of_turn>user\nx<end_of_turn>\n<start_of_turn>model\n',
    end: '<end_of_turn>',
  },
  {
    name: 'Llama 2',
    template:
      "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}" +
      '{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}' +
      "{% if loop.index0 == 0 and system != false %}{% set text = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}" +
      "{% else %}{% set text = m['content'] %}{% endif %}{% if m['role'] == 'user' %}" +
      "{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}{% elif m['role'] == 'assistant' %}" +
      "{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    eos: '</s>',
    system: true,
    text: '<|begin_of_text|>[INST] <<SYS>>\nS\n<</SYS>>\n\n hi [/INST] Ho </s><|begin_of_text|>[INST] x [/INST]',
    end: '</s>',
  },
  {
    name: 'Mistral',
    template:
      "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}" +
      "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% else %}" +
      "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    eos: '</s>',
    system: false,
    text: '<|begin_of_text|>[INST]  hi  [/INST]Ho</s>[INST] x [/INST]',
    end: '</s>',
  },
  {
    name: 'plain text between turns',
    template: "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
    eos: '</s>',
    system: true,
    text: 'system: S\nuser:  hi \nassistant: Ho\nuser: x\n',
    end: undefined,
  },
];

const conversation = (system: boolean): ChatMessage[] => [
  ...(system ? [{ role: 'system', content: 'S' }] : []),
  { role: 'user', content: ' hi ' },
  { role: 'assistant', content: 'Ho' },
  { role: 'user', content: 'x' },
];

describe.each(families)('$name', ({ template, eos, text, system, end }) => {
  const tokenizer = tokenizerWith(eos, template);

  test('text and ids', async () => {
    const messages = conversation(system);
    const tokens = { bosToken: '<|begin_of_text|>', eosToken: eos };
    expect(await renderChat(template, messages, tokens)).toBe(text);
    const ids = await encodeChat(tokenizer, undefined, messages);
    const bos = text.startsWith('<|begin_of_text|>') ? '' : '<|begin_of_text|>';
    expect(tokenizer.decode(ids, { special: true })).toBe(bos + text);
    // Every special token of the text is one id, and nothing else is.
    const specials = ids.filter((id) => id >= 257).map((id) => SPECIALS[id - 257]);
    const written = [...(bos + text).matchAll(/<\|\w+\|>|<\w+_of_turn>|\[\/?INST\]|<\/s>/g)].map(([match]) => match);
    expect(specials).toEqual(written);
  });

  test('the end of a turn', async () => {
    expect(await turnEnd(tokenizer)).toBe(end === undefined ? undefined : idOf(end));
  });
});

test('a refusal of the template comes with its words', async () => {
  const [gemma, mistral] = ['Gemma', 'Mistral'].map((name) => families.find((family) => family.name === name));
  for (const [family, says] of [
    [gemma, /System role not supported/],
    [mistral, /Only user and assistant roles/],
  ] as const) {
    await expect(renderChat(family?.template, conversation(true))).rejects.toMatchObject({
      code: 'bad-template',
      message: expect.stringMatching(says),
    });
  }
});

test('a template that cannot be run names no end, and chat says why', async () => {
  const broken = tokenizerWith('</s>', '{% for %}');
  expect(await turnEnd(broken)).toBeUndefined();
  expect(await turnEnd(tokenizerWith('</s>'))).toBeUndefined();
  await expect(encodeChat(broken, undefined, conversation(true))).rejects.toMatchObject({ code: 'bad-template' });
  await expect(encodeChat(tokenizerWith('</s>'), undefined, conversation(true))).rejects.toMatchObject({
    code: 'no-template',
  });
});

describe('a file without a template', () => {
  const metadata = bpe('llama-bpe', [' |h']);

  test('is refused, not guessed at, whatever its architecture', () => {
    for (const architecture of ['llama', 'bitnet', 'bitnet-b1.58', 'bitnet-25']) {
      expect(tokenizerSpecFromMetadata(getter(metadata), { architecture }).chatTemplate).toBeUndefined();
    }
  });
});

describe('attributes of the host are out of reach', () => {
  test.each([
    "''.constructor",
    "''['constructor']",
    'messages.constructor',
    "messages['__proto__']",
    'messages[0].__proto__',
    "messages[0]['constructor']",
    'messages[0].hasOwnProperty',
    'raise_exception.constructor',
    'range.call',
    'range.prototype',
    '(1).constructor',
    'true.constructor',
    'none.constructor',
    'namespace.constructor',
    "''.upper.constructor",
    'loop.constructor',
    'self',
    'globalThis',
    'process',
    'require',
    'Function',
  ])('%s', async (expression) => {
    const code = `{{ 'defined' if (${expression}) is defined else 'undefined' }}`;
    const rendered = await renderChat(code, [{ role: 'user', content: 'x' }]).catch((error: unknown) => error);
    if (typeof rendered === 'string') expect(rendered).toBe('undefined');
    else expect(rendered).toMatchObject({ name: 'BitnetError', code: 'bad-template' });
  });

  test('nor can a template leave anything behind for the next', async () => {
    const code = '{% set messages = [] %}{% set ns = namespace(range=1) %}{% set range = 3 %}{{ range }}';
    expect(await renderChat(code, [])).toBe('3');
    expect(await renderChat('{{ range(2) | join }}', [])).toBe('01');
    expect(Object.hasOwn(Object.prototype, 'range')).toBe(false);
  });
});

describe('wasting time and memory', () => {
  // 2^60 elements in a value of sixty small lists.
  const doubled = (use: string) =>
    `{% set n = namespace(l=['x']) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}${use}`;
  const million = "{% set n = namespace(s='x') %}{% for i in range(19) %}{% set n.s = n.s + n.s %}{% endfor %}";
  const long = '{% for i in range(60000) %}';
  const loops = (body: string) => `${long}${long}${body}{% endfor %}{% endfor %}`;
  test.each([
    ['range(10**9)', '{% for i in range(10**9) %}{% endfor %}', /range\(\) of 1000000000/],
    ['range backwards', '{{ range(0, -10**9, -1) }}', /range\(\) of 1000000000/],
    ['loops in loops', loops(''), /runs too long/],
    ['loops that go on', loops('{% continue %}'), /runs too long/],
    ['a loop with a condition', `${long}{% for j in range(60000) if j < 0 %}{% endfor %}{% endfor %}`, /runs too long/],
    ['a macro of itself', '{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}', /nested too deep/],
    ['two macros', '{% macro f(a, b) %}{{ b(b, a) }}{% endmacro %}{{ f(f, f) }}', /nested too deep/],
    ['lists of lists, printed', doubled('{{ n.l }}'), /too much text/],
    ['lists of lists, as JSON', doubled('{{ n.l | tojson }}'), /too much text/],
    ['lists of lists, as text', doubled("{{ n.l | string ~ '' }}"), /too much text/],
    ['dictionaries of lists', doubled("{{ {'a': n.l} | tojson(indent=2) }}"), /too much text/],
    ['replace, nothing by much', `${million}{{ n.s.replace('', n.s) }}`, /too much text/],
    ['replace, one by much', `${million}{{ n.s | replace('x', n.s) }}`, /too much text/],
    ['replace under another name', `${million}{% set f = n.s.replace %}{{ f('x', n.s) }}`, /too much text/],
    ['replace as a block', `${million}{% filter replace('x', n.s) %}{{ n.s }}{% endfilter %}`, /too much text/],
    ['join with much', `${million}{{ range(60000) | join(n.s) }}`, /too much text/],
    ['indent by much', "{{ 'a' | indent(10**9, true) }}", /too much text/],
    ['JSON indented by much', '{{ [1] | tojson(indent=10**9) }}', /too much text/],
    ['doubling', `${million}{{ n.s + n.s + n.s }}`, /too much text/],
    ['brackets', `{{ ${'['.repeat(5000)}${']'.repeat(5000)} }}`, /nested too deep/],
    ['blocks', `${'{% if true %}'.repeat(1000)}${'{% endif %}'.repeat(1000)}`, /nested too deep/],
    ['not not not', `{{ ${'not '.repeat(15_000)} true }}`, /nested too deep/],
    ['a sum of many', `{{ ${'1 + '.repeat(15_000)} 1 }}`, /nested too deep/],
    ['an endless source', `{# ${' '.repeat(70_000)} #}`, /template too long/],
  ])('%s', async (_name, template, says) => {
    const before = performance.now();
    const error = await renderChat(template, [{ role: 'user', content: 'x' }]).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ name: 'BitnetError', code: 'bad-template' });
    expect((error as Error).message).toMatch(says);
    // Half a second on a quiet machine for the slowest.
    expect(performance.now() - before).toBeLessThan(20_000);
  });

  test('what templates do is far from the limits', async () => {
    const breaks = '{% for i in range(5000) %}{% for j in range(3) %}{% break %}{% endfor %}{% endfor %}ok';
    expect(await renderChat(breaks, [])).toBe('ok');
    const tools = {
      tools: Array.from({ length: 50 }, (_, i) => ({ name: `f${i}`, parameters: { a: { b: { c: [1] } } } })),
    };
    const json = await renderChat('{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}', [], { extra: tools });
    expect(json).toContain('"name": "f49"');
    const text = 'y\n'.repeat(200_000);
    const replaced = "{{ messages[0].content.replace('y', 'yy') | indent(4) | length }}";
    expect(await renderChat(replaced, [{ role: 'user', content: text }])).toBe(`${600_000 + 4 * 199_999}`);
  });
});
