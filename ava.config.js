// Worker threads stay off: setns(2) changes one thread, and a test must own its process.
export default {
  files: ['test/**/*.test.ts'],
  extensions: ['ts'],
  nodeArguments: ['--conditions=headgate-source'],
  workerThreads: false,
  concurrency: 2,
  timeout: '3m',
}
