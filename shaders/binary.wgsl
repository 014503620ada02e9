// y = a op b
fn value(o: at_at) -> f32 {
  let a = a_get(o.a);
  let b = b_get(o.b);
#if FUNCTION == 0
  return a + b;
#elif FUNCTION == 1
  return a - b;
#elif FUNCTION == 2
  return a * b;
#elif FUNCTION == 3
  return a / b;
#elif FUNCTION == 4
  return max_nan(a, b);
#elif FUNCTION == 5
  return min_nan(a, b);
#endif
}

#include "lib/each.wgsl"
