/**
 * A named piece of Envoy's configuration with a version that is a digest of its content: the same content has the same version in
 * every process and after every restart, so a client that kept its state is sent nothing.
 *
 * Sealing exists for one trap: Envoy remembers the hash of an extension configuration before it judges it, so bytes that it once
 * refused are acknowledged when they come again, although they are not in force. A sealed resource holds a seal that differs from
 * one stream to the next and does not take part in the version; an ACK then always means that Envoy judged what it was sent.
 */
import { createHash } from 'node:crypto'
import { create, type DescMessage, type MessageShape, toBinary } from '@bufbuild/protobuf'
import { type Any, AnySchema } from '@bufbuild/protobuf/wkt'
import type { TypeUrl } from './type-urls.ts'

export interface Resource {
  readonly typeUrl: TypeUrl
  readonly name: string
  /** Hex digest of the content. */
  readonly version: string
  /** What goes over the wire. @param seal ignored by resources that need none */
  encode(seal: string): Any
}

/** A resource that is the same on every stream. */
export function createResource<D extends DescMessage>(typeUrl: TypeUrl, name: string, schema: D, message: MessageShape<D>): Resource {
  const value = toBinary(schema, message)
  const body = create(AnySchema, { typeUrl, value })
  return { typeUrl, name, version: digest(value), encode: () => body }
}

/**
 * A resource whose bytes hold a seal, and that is made only when it is sent.
 * @param identity of the content: equal exactly when the messages for one seal are equal
 * @param build makes the message for a seal; must be pure
 */
export function createSealedResource<D extends DescMessage>(
  typeUrl: TypeUrl,
  name: string,
  schema: D,
  identity: Uint8Array,
  build: (seal: string) => MessageShape<D>,
): Resource {
  return {
    typeUrl,
    name,
    version: digest(identity),
    encode: (seal) => create(AnySchema, { typeUrl, value: toBinary(schema, build(seal)) }),
  }
}

/** A message inside google.protobuf.Any, as Envoy's typed_config fields want it. */
export function packAny<D extends DescMessage>(schema: D, message: MessageShape<D>): Any {
  return create(AnySchema, { typeUrl: `type.googleapis.com/${schema.typeName}`, value: toBinary(schema, message) })
}

function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, 32)
}
