// 16-bit elements of the operand `w`. W_VEC: every row starts at a multiple of 16 bytes.

// 16 bytes from an even b.
fn w_half8(b: u32) -> vec4<u32> {
#if W_VEC
    return w_vec(b >> 4u);
#else
    let a = (p.w_off & 1u) * 2u + b;
    let i = a >> 2u;
    let v = vec4<u32>(w_word(i), w_word(i + 1u), w_word(i + 2u), w_word(i + 3u));
    if ((a & 2u) == 0u) {
        return v;
    }
    return (v >> vec4<u32>(16u)) | (vec4<u32>(v.yzw, w_word(i + 4u)) << vec4<u32>(16u));
#endif
}
