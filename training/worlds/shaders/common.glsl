#version 330 core
// Shared by every world and every subject: camera, light, haze, soft shapes, tone curve.
in vec2 screen;
out vec4 fragment;

uniform vec3 cam_pos;
uniform mat3 cam_basis;      // columns right, up, forward
uniform float moment;        // frame / 15, 0..1
uniform vec3 sun_dir, sun_colour, sky_top, sky_low, ambient, fog_colour;
uniform float fog_density, night;
uniform vec3 main_colour, second_colour;
uniform vec4 blob;           // subject on the ground: x, z, radius, strength of its shadow
uniform vec3 blob_glow;      // light that a glowing subject throws on the ground
uniform vec4 second_blob;    // the same of a second subject
uniform vec3 second_blob_glow;
uniform vec4 seed;           // four random numbers of the clip, 0..1

const float TAN_HALF = 0.55;
const float PIXEL = 2.0 * TAN_HALF / 128.0;
const float FAR = 1e5;

vec3 view_ray(vec2 at) { return normalize(cam_basis * vec3(at * TAN_HALF, 1.0)); }

vec3 tone(vec3 c) {
    c = c * (1.0 + c * 0.10) / (1.0 + c * 0.42);
    return pow(clamp(c, 0.0, 1.0), vec3(1.0 / 2.2));
}

float hash(float n) { return fract(sin(n * 12.9898 + 4.137) * 43758.5453); }
float luma(vec3 c) { return dot(c, vec3(0.3, 0.55, 0.15)); }

// Coverage of the interval [a, b] at x with an edge of half-width w.
float band(float x, float a, float b, float w) {
    return smoothstep(a - w, a + w, x) * (1.0 - smoothstep(b - w, b + w, x));
}

vec3 haze(vec3 c, float t) { return mix(fog_colour, c, exp(-t * fog_density)); }

vec3 sky(vec3 rd) {
    float h = clamp(rd.y * 1.6, 0.0, 1.0);
    vec3 c = mix(sky_low, sky_top, smoothstep(0.0, 1.0, sqrt(h)));
    float facing = max(dot(rd, sun_dir), 0.0);
    c += sun_colour * (0.22 * pow(facing, 12.0) + 0.25 * pow(facing, 60.0)) * (1.0 - 0.75 * night);
    float disc = smoothstep(0.9945, 0.9965, facing);
    return mix(c, mix(vec3(1.5, 1.35, 1.05), vec3(1.0, 1.0, 0.9), night), disc);
}

// Shadow (multiplier) and glow (added light) of the subjects at a point of the ground.
float shadow_of(vec2 p, vec4 one) {
    vec2 d = p - one.xy;
    return 1.0 - one.w * exp(-2.2 * dot(d, d) / (one.z * one.z));
}
float blob_shadow(vec2 p) { return shadow_of(p, blob) * shadow_of(p, second_blob); }
vec3 blob_light(vec2 p) {
    vec2 d = p - blob.xy, e = p - second_blob.xy;
    return blob_glow / (1.0 + 1.6 * dot(d, d)) + second_blob_glow / (1.0 + 1.6 * dot(e, e));
}

// Entry distance of a ray into a box, or FAR; `n` is set to the face's normal.
float hit_box(vec3 ro, vec3 inv, vec3 lo, vec3 hi, out vec3 n) {
    vec3 a = (lo - ro) * inv, b = (hi - ro) * inv;
    vec3 near = min(a, b), far = max(a, b);
    float t = max(max(near.x, near.y), near.z), s = min(min(far.x, far.y), far.z);
    n = near.x >= max(near.y, near.z) ? vec3(-sign(inv.x), 0.0, 0.0)
        : (near.y >= near.z ? vec3(0.0, -sign(inv.y), 0.0) : vec3(0.0, 0.0, -sign(inv.z)));
    return (t < s && t > 0.0) ? t : FAR;
}

float hit_sphere(vec3 ro, vec3 rd, vec3 c, float r) {
    vec3 o = ro - c;
    float b = dot(o, rd), h = b * b - dot(o, o) + r * r;
    float t = -b - sqrt(max(h, 0.0));
    return (h > 0.0 && t > 0.0) ? t : FAR;
}

vec3 safe_inverse(vec3 rd) {
    vec3 side = mix(vec3(-1.0), vec3(1.0), vec3(greaterThanEqual(rd, vec3(0.0))));
    return side / max(abs(rd), vec3(1e-4));
}

vec3 shade(vec3 ro, vec3 rd);
