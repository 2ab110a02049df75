/** A bound on octets that many requests hold together, however large each may be. */
export interface OctetBudget {
  /** False when there is no room for so many; then none are taken. */
  take(octets: number): boolean;
  /** Gives back what was taken. */
  give(octets: number): void;
  /** Octets that are taken now. */
  readonly taken: number;
}

export const createOctetBudget = (octetsMax: number): OctetBudget => {
  let taken = 0;
  return {
    take(octets) {
      if (taken + octets > octetsMax) return false;
      taken += octets;
      return true;
    },
    give(octets) {
      taken -= octets;
    },
    get taken() {
      return taken;
    },
  };
};
