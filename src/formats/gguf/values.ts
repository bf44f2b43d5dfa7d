/**
 * Parsing of metadata values.
 *
 *     key    string
 *     type   u32       see valueTypeNames
 *     value  fixed size | string | array = u32 element type, u64 count, elements back to back
 *
 * Arrays of arrays exist in no file; upstream refuses them, and so do we.
 * @module
 */

import { want } from '../../errors.ts';
import type { HeaderCursor } from './cursor.ts';
import { MAX_ARRAY_LENGTH, MAX_STRING_BYTES } from './limits.ts';
import { GgufString, type GgufValue, type GgufValueType, StringArray, valueTypeNames } from './types.ts';

/** Bytes of one value; strings and arrays have no fixed size. */
export const valueBytes: Record<Exclude<GgufValueType, 'string' | 'array'>, number> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  u64: 8,
  i64: 8,
  f64: 8,
};

export async function parseValue(cursor: HeaderCursor, key: string): Promise<GgufValue> {
  const type = await parseType(cursor, key);
  if (type === 'string') return new GgufString(await cursor.string(`the value of ${key}`, MAX_STRING_BYTES));
  if (type === 'array') return parseArray(cursor, key);
  await cursor.need(valueBytes[type], `the value of ${key}`);
  const { view, position } = cursor;
  cursor.position += valueBytes[type];
  switch (type) {
    case 'u8':
      return { type, value: view.getUint8(position) };
    case 'i8':
      return { type, value: view.getInt8(position) };
    case 'u16':
      return { type, value: view.getUint16(position, true) };
    case 'i16':
      return { type, value: view.getInt16(position, true) };
    case 'u32':
      return { type, value: view.getUint32(position, true) };
    case 'i32':
      return { type, value: view.getInt32(position, true) };
    case 'f32':
      return { type, value: view.getFloat32(position, true) };
    case 'f64':
      return { type, value: view.getFloat64(position, true) };
    case 'u64':
      return { type, value: view.getBigUint64(position, true) };
    case 'i64':
      return { type, value: view.getBigInt64(position, true) };
    case 'bool':
      return { type, value: boolByte(cursor, view.getUint8(position), key) === 1 };
  }
}

async function parseType(cursor: HeaderCursor, key: string): Promise<GgufValueType> {
  const id = await cursor.u32(`the value type of ${key}`);
  const type = valueTypeNames[id];
  want(type !== undefined, 'unsupported-type', 'unknown value type', () => ({
    where: `${cursor.source.label}: ${key}`,
    expected: `0 to ${valueTypeNames.length - 1}`,
    got: `${id}`,
  }));
  return type;
}

async function parseArray(cursor: HeaderCursor, key: string): Promise<GgufValue> {
  const of = await parseType(cursor, key);
  want(of !== 'array', 'unsupported-type', 'array of arrays', () => ({
    where: `${cursor.source.label}: ${key}`,
    expected: 'an array of numbers, bools or strings',
  }));
  const count = await cursor.count(`the length of array ${key}`);
  // A string takes at least its 8 length bytes: bounds the count by the file before anything is allocated for it.
  const leastBytes = count * (of === 'string' ? 8 : valueBytes[of]);
  want(count <= MAX_ARRAY_LENGTH, 'limit-exceeded', 'array too long', () => ({
    where: `${cursor.source.label}: ${key}`,
    expected: `at most ${MAX_ARRAY_LENGTH} elements`,
    got: `${count}`,
  }));
  want(leastBytes <= cursor.left, 'truncated', 'array longer than the rest of the file', () => ({
    where: `${cursor.source.label}: ${key}`,
    expected: `at least ${leastBytes} bytes for ${count} of ${of}`,
    got: `${cursor.left}`,
  }));
  if (of === 'string') return { type: 'array', of, values: await parseStrings(cursor, key, count) };
  const elementBytes = valueBytes[of];
  await cursor.need(leastBytes, `array ${key}`);
  const start = cursor.position;
  cursor.position += leastBytes;
  // A copy with its own buffer at offset 0: aligned for any element type, and the header's memory can go.
  const body = cursor.bytes.slice(start, start + leastBytes);
  if (of === 'bool') for (const byte of body) boolByte(cursor, byte, key);
  const buffer = toHostOrder(body, elementBytes).buffer;
  // TypeScript cannot see that the constructor under `of` makes the array type under `of`.
  return { type: 'array', of, values: new arrayTypes[of](buffer) } as GgufValue;
}

const arrayTypes = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  bool: Uint8Array,
  u64: BigUint64Array,
  i64: BigInt64Array,
  f64: Float64Array,
} as const;

/** Little-endian elements to the order of this machine (which is little-endian wherever JavaScript runs today). */
function toHostOrder(bytes: Uint8Array<ArrayBuffer>, elementBytes: number): Uint8Array<ArrayBuffer> {
  const hostIsLittle = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
  if (!hostIsLittle) for (let i = 0; i < bytes.length; i += elementBytes) bytes.subarray(i, i + elementBytes).reverse();
  return bytes;
}

/** Finds where each string begins; the bytes stay in one piece. Waits for more of the file where it runs out. */
async function parseStrings(cursor: HeaderCursor, key: string, count: number): Promise<StringArray> {
  const bodyStart = cursor.position;
  const starts = new Uint32Array(count + 1);
  for (let i = 0; i < count; i++) {
    if (!cursor.has(8)) await cursor.need(8, `string ${i} of ${key}`);
    const length = cursor.peekCount();
    want(length <= MAX_STRING_BYTES, 'limit-exceeded', `string ${i} too long`, () => ({
      where: `${cursor.source.label}: ${key}`,
      expected: `at most ${MAX_STRING_BYTES} bytes`,
      got: `${length}`,
    }));
    starts[i] = cursor.position + 8 - bodyStart;
    if (!cursor.has(8 + length)) await cursor.need(8 + length, `string ${i} of ${key}`);
    cursor.position += 8 + length;
  }
  // Below 2^32 because the cursor refuses headers beyond MAX_HEADER_BYTES.
  starts[count] = cursor.position + 8 - bodyStart;
  return new StringArray(cursor.bytes.slice(bodyStart, cursor.position), starts);
}

function boolByte(cursor: HeaderCursor, byte: number, key: string): number {
  want(byte <= 1, 'bad-container', 'bad bool', () => ({
    where: `${cursor.source.label}: ${key}`,
    expected: '0 or 1',
    got: `${byte}`,
  }));
  return byte;
}
