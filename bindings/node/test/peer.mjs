// Builds the Rust end of the tests.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Builds `examples/peer.rs`, and returns the path of the program. */
export function buildPeer() {
  const args = ['build', '--release', '--locked', '--example', 'peer'];
  const cargo = spawnSync('cargo', args, { cwd: root, encoding: 'utf8' });
  if (cargo.status !== 0) throw new Error(`cargo could not build the peer: ${cargo.stderr}`);
  return join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'release/examples/peer');
}
