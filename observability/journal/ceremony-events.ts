/** What happens in ceremonies (queue/ceremonies.ts), as the journal tells it. */
import { type CeremonyChange, ceremonyText, type TellCeremony } from '../../queue/ceremonies.ts';
import { encodeDrafts } from './draft-block.ts';
import type { EventDraft } from './events.ts';
import { draftOf } from './recorder.ts';
import type { TsuActor } from './tsu-events.ts';

const draftFor = (change: CeremonyChange, by: TsuActor): EventDraft => {
  const { ceremony } = change;
  const { action, token, keyLabel: key } = ceremony;
  const common = { subject: ceremony.id, outcome: 'success', by } as const;
  switch (change.kind) {
    case 'requested':
      return draftOf(
        { ...common, kind: 'ceremony.requested', detail: { action, token, key, text: ceremonyText(ceremony) } },
        by.actor,
        by.clock,
      );
    case 'approved': {
      const { operator, signature } = change.approval;
      return draftOf(
        { ...common, kind: 'ceremony.approved', detail: { action, operator, signature: Buffer.from(signature, 'base64') } },
        by.actor,
        by.clock,
      );
    }
    case 'executed':
      return draftOf({ ...common, kind: 'ceremony.executed', detail: { action, token, key } }, by.actor, by.clock);
  }
};

/** Tells of ceremonies as this actor moves them on. */
export const ceremonyTeller =
  (by: TsuActor): TellCeremony =>
  (change) =>
    encodeDrafts([draftFor(change, by)]);
