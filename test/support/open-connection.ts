/** A connection that a test writes to octet by octet. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export interface OpenConnection {
  readonly socket: Socket;
  received(): string;
  closed(): boolean;
}

/** Connects to a port of this machine. @param sockets gets the socket, for who closes those of a test */
export const openConnection = async (port: number, sockets: Set<Socket>): Promise<OpenConnection> => {
  const socket = connect(port, '127.0.0.1');
  sockets.add(socket);
  let text = '';
  let closed = false;
  socket.on('data', (data: Buffer) => {
    text += data.toString('latin1');
  });
  socket.on('error', () => undefined); // a reset counts as closed
  socket.on('close', () => {
    closed = true;
  });
  await once(socket, 'connect');
  return { socket, received: () => text, closed: () => closed };
};
