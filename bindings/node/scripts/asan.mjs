// Runs the tests with a Rust peer, a hostile one among them, on an addon under AddressSanitizer.
//
//   node scripts/asan.mjs [TEST…]
//
// It needs a nightly toolchain, and the shared runtime of AddressSanitizer, which gcc has
// (libasan.so). MESSAGEPORT_HOSTILE sets the number of damaged messages. Node.js and V8 are not
// instrumented: accesses of the addon are checked, and what it hands to libc. Leaks are not looked
// for, as Node.js itself frees little at its end.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const triple = `${{ x64: 'x86_64', arm64: 'aarch64' }[process.arch]}-unknown-linux-gnu`;
const target = join(root, 'target', 'asan');
const stage = join(target, 'package');

function run(command, args, options) {
  const { status, error, stdout } = spawnSync(command, args,
    { cwd: root, stdio: 'inherit', encoding: 'utf8', ...options });
  if (status !== 0) {
    console.error(`${command} ${args.join(' ')} has failed: ${error?.message ?? status}`);
    process.exit(1);
  }
  return stdout;
}

run('cargo', ['+nightly', 'build', '--release', '--locked', '--target', triple], {
  env: {
    ...process.env,
    CARGO_TARGET_DIR: target,
    RUSTFLAGS: '-Zsanitizer=address -Cdebug-assertions=on -Cforce-frame-pointers=on',
  },
});
run('cargo', ['build', '--release', '--locked', '--examples']);
const runtime = run('gcc', ['-print-file-name=libasan.so'], { stdio: 'pipe' }).trim();

rmSync(stage, { recursive: true, force: true });
mkdirSync(stage, { recursive: true });
for (const name of ['lib', 'test', 'package.json']) {
  cpSync(join(root, name), join(stage, name), { recursive: true });
}
cpSync(join(target, triple, 'release', 'libmessageport_node.so'), join(stage, 'messageport.node'));

const wanted = process.argv.slice(2);
const tests = wanted.length > 0 ? wanted : ['rust', 'kills', 'port', 'process', 'broadcast', 'blobs'];
run(process.execPath, ['--expose-gc', '--test', ...tests.map((name) => `test/${name}.test.mjs`)], {
  cwd: stage,
  env: {
    ...process.env,
    LD_PRELOAD: runtime,
    ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1',
    MESSAGEPORT_PEERS: join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'),
      'release/examples'),
  },
});
