/** What happens to the register of clients (queue/client-register.ts), as the journal tells it. */
import type { ClientChange, TellChange } from '../../queue/client-register.ts';
import { encodeDrafts } from './draft-block.ts';
import type { EventDraft } from './events.ts';
import { draftOf, type TellClock } from './recorder.ts';

/** A name that never had a role, in `permission.changed`. */
const noRole = 'none';

const draftsOf = (change: ClientChange, operator: string, clock: TellClock | undefined): EventDraft[] => {
  const { name } = change;
  const common = { subject: name, outcome: 'success', by: { role: 'operator', actor: operator } } as const;
  const roleChanged = (from: string, to: string): EventDraft =>
    draftOf({ ...common, kind: 'permission.changed', detail: { from, to } }, operator, clock);
  if (change.kind === 'role') return [roleChanged(change.from, change.to)];
  const told = draftOf({ ...common, kind: `client.${change.kind}`, detail: { name } }, operator, clock);
  // A client is what `client.added` means; more than that is told.
  return change.kind === 'added' && change.role !== 'client' ? [told, roleChanged(noRole, change.role)] : [told];
};

/** Tells of changes that this operator makes. @param clock what is known about the clock of this host */
export const clientChangeTeller =
  (operator: string, clock?: TellClock): TellChange =>
  (change) =>
    encodeDrafts(draftsOf(change, operator, clock));
