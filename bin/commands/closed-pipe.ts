/** A reader of our output that has seen enough, such as `head`, closes the pipe: that is the end of a command, and no defect. */

/** Ends this process when nobody reads its output any more. */
export const endWithReader = (): void => {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit();
  });
};
