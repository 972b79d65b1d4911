// Worker threads stay off: setns(2) changes one thread, and a test must own its process.
export default {
  files: ['test/**/*.test.ts', ...(process.env.HEADGATE_TEST_LONG ? [] : ['!test/**/*.long.test.ts'])],
  extensions: ['ts'],
  nodeArguments: ['--conditions=headgate-source'],
  workerThreads: false,
  // Long tests load the machine and judge memory and time.
  concurrency: process.env.HEADGATE_TEST_LONG ? 1 : 2,
  timeout: '3m',
}
