// Four samples a pixel on a rotated grid, each through the tone curve so that bright edges stay smooth.
void main() {
    vec3 c = vec3(0.0);
    for (int s = 0; s < 4; s++) {
        vec2 o = s < 2 ? (s == 0 ? vec2(-0.375, -0.125) : vec2(0.125, -0.375)) : (s == 2 ? vec2(0.375, 0.125) : vec2(-0.125, 0.375));
        c += tone(shade(cam_pos, view_ray(screen + o * (2.0 / 128.0))));
    }
    fragment = vec4(c * 0.25, 1.0);
}
