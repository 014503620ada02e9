// y = act(scale * x + offset)
#include "lib/act.wgsl"

fn value(o: at_at) -> f32 {
  return act(x_get(o.x) * p.scale + p.offset);
}

#include "lib/each.wgsl"
