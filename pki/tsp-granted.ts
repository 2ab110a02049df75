/** TimeStampResp with a token (RFC 3161, section 2.4.2). */
import { type Der, encode, integer, sequence, tag } from './der.ts';

/** PKIStatusInfo `granted` and nothing else: several clients refuse a granted response with a statusString. */
const grantedStatus = sequence(integer(0));

/** The granted TimeStampResp around a token. */
export const grantedResponse = (token: Uint8Array): Der => encode(tag.sequence, grantedStatus, token);
