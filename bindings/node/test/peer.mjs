// Builds the Rust ends of the tests.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Builds a program of `examples`, if it is not built elsewhere, and returns its path. */
export function buildPeer(name = 'peer') {
  if (process.env.MESSAGEPORT_PEERS !== undefined) return join(process.env.MESSAGEPORT_PEERS, name);
  const args = ['build', '--release', '--locked', '--example', name];
  const cargo = spawnSync('cargo', args, { cwd: root, encoding: 'utf8' });
  if (cargo.status !== 0) throw new Error(`cargo could not build ${name}: ${cargo.stderr}`);
  return join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'release/examples', name);
}
