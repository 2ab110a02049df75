/** A journal in an embedded store, one partition of it expired, which a test tampers with; after each test it is as it was. */
import { after, afterEach, before } from 'node:test';
import { embeddedClient } from '../../../observability/journal/clickhouse.ts';
import { JournalReader } from '../../../observability/journal/reader.ts';
import { resumeTree } from '../../../observability/journal/tree-store.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { type JournalKey, journalKey, TamperedStore, TestJournal, TestPki, type TestTsu, testTsu } from './signed-journal.ts';

export interface TamperedJournal {
  readonly key: JournalKey;
  readonly journal: TestJournal;
  readonly tampered: TamperedStore;
  readonly reader: JournalReader;
  /** Stamps its checkpoints. */
  readonly tsu: TestTsu;
}

/**
 * For the tests of a suite.
 * @param fill puts the entries into the journal
 * @param gone the partition that has expired
 */
export const tamperedJournal = (fill: (journal: TestJournal, tsu: TestTsu) => void, gone: string): TamperedJournal => {
  const folder = temporaryFolder();
  const pki = new TestPki();
  const key = journalKey();
  const journal = new TestJournal(key);
  let tampered: TamperedStore;
  let reader: JournalReader;
  let tsu: TestTsu;
  before(async () => {
    tampered = await TamperedStore.open(await embeddedClient(folder.path));
    reader = new JournalReader(tampered.client);
    tsu = testTsu(pki);
    fill(journal, tsu);
    for (let i = 0; i < journal.size; i += 1_000) await tampered.insert(journal.sealed.slice(i, i + 1_000));
    await tampered.expire(gone);
    await resumeTree(reader, journal.size);
    await tampered.save();
  });
  after(async () => {
    await tampered?.store.close();
    pki.close();
    folder.remove();
  });
  afterEach(() => tampered?.restore());
  return {
    key,
    journal,
    get tampered() {
      return tampered;
    },
    get reader() {
      return reader;
    },
    get tsu() {
      return tsu;
    },
  };
};
