// y = act(gate) * up
#include "lib/act.wgsl"

fn value(o: at_at) -> f32 {
  return act(gate_get(o.gate)) * up_get(o.up);
}

#include "lib/each.wgsl"
