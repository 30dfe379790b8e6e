// Builds the addon with cargo, and puts it where `lib/native.js` looks for it.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, renameSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const addon = join(root, 'messageport.node');

if (process.argv.includes('--if-missing') && existsSync(addon)) process.exit(0);

const cargo = spawnSync('cargo', ['build', '--release', '--locked'], {
  cwd: root,
  stdio: 'inherit',
});
if (cargo.error !== undefined) {
  console.error(`cargo could not be run (${cargo.error.message}): install Rust 1.88 or later, ` +
    'see https://rustup.rs');
  process.exit(1);
}
if (cargo.status !== 0) process.exit(cargo.status ?? 1);

const target = process.env.CARGO_TARGET_DIR ?? join(root, 'target');
// A process that has the old file loaded keeps it: the new one takes its name.
copyFileSync(join(target, 'release', 'libmessageport_node.so'), `${addon}.new`);
renameSync(`${addon}.new`, addon);
