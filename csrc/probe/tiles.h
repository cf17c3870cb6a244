#pragma once

#include "common/amx.h"

namespace pyprod::probe {

// Runs `body` with all eight tiles configured as 16 rows of 64 bytes.
template <class Body>
void in_tiles(Body body) {
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.rows[t] = 16;
    config.row_bytes[t] = 64;
  }
  TILE_CONFIGURE(config);
  body();
  TILE_RELEASE();
}

}  // namespace pyprod::probe
