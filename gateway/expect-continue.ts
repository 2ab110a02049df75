/**
 * Expect: 100-continue (RFC 9110, 10.1.1). A client that asks before it sends a body is told to go on where the body is about to be
 * read, and so behind every refusal that needs only the head. node:http closes the connection behind an answer that came instead.
 */
import type { ServerResponse } from 'node:http';

const awaited = Symbol('100 Continue is awaited');
type TaggedResponse = ServerResponse & { [awaited]?: true };

/** Marks the answer to a client that waits before it sends its body. */
export const awaitContinue = (response: ServerResponse): void => {
  (response as TaggedResponse)[awaited] = true;
};

/** Tells the client to send its body, if it waits for that. */
export const letContinue = (response: ServerResponse): void => {
  if ((response as TaggedResponse)[awaited] === true) response.writeContinue();
};
