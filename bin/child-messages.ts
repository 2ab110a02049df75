/** What supervisor and child say to each other over the IPC channel. */

/** `alive`: whether the main thread still comes round. */
export type Question = 'metrics' | 'health' | 'alive';

export interface Ask {
  readonly type: 'ask';
  readonly id: number;
  readonly what: Question;
}

export type ChildMessage =
  | { readonly type: 'ready' }
  /** It cannot end by itself, and is killed: the exit status that it would end with. */
  | { readonly type: 'ending'; readonly status: number }
  | { readonly type: 'answer'; readonly id: number; readonly value: unknown }
  /** The question could not be answered; the reason is for the log. */
  | { readonly type: 'answer'; readonly id: number; readonly error: string };

/** Exit status of a child that another start would not help: what is wrong is in the configuration (EX_CONFIG of sysexits.h). */
export const exitDoNotRestart = 78;

/** Exit status of a child whose token has failed: it is started again, but with longer pauses (EX_TEMPFAIL of sysexits.h). */
export const exitTokenFailed = 75;

export const isAsk = (message: unknown): message is Ask =>
  typeof message === 'object' && message !== null && (message as Ask).type === 'ask' && typeof (message as Ask).id === 'number';

const childMessages: readonly ChildMessage['type'][] = ['ready', 'ending', 'answer'];

export const isChildMessage = (message: unknown): message is ChildMessage =>
  typeof message === 'object' && message !== null && childMessages.includes((message as ChildMessage).type);
