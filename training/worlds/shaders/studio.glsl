// Object and avatar: a seamless studio or a stage with a bright disc behind; a round plinth or platform.
uniform vec4 plinth;       // radius, height, softness of the backdrop's horizon, on
uniform vec4 disc;         // x, y, radius, strength of the bright disc on the back wall
uniform float stage;       // 1: darker sides with broad curtains and a spotlight

float hit_cylinder(vec3 ro, vec3 rd, float r, float h, out vec3 n) {
    float a = dot(rd.xz, rd.xz), b = dot(ro.xz, rd.xz), c = dot(ro.xz, ro.xz) - r * r;
    float q = b * b - a * c;
    float t = (-b - sqrt(max(q, 0.0))) / a;
    float y = ro.y + rd.y * t;
    n = vec3((ro.xz + rd.xz * t) / r, 0.0).xzy;
    float cap = (h - ro.y) / rd.y;
    vec2 on_cap = ro.xz + rd.xz * cap;
    bool top = cap > 0.0 && dot(on_cap, on_cap) < r * r && rd.y < 0.0;
    bool wall = q > 0.0 && t > 0.0 && y > 0.0 && y < h;
    if (top && (!wall || cap < t)) { n = vec3(0.0, 1.0, 0.0); return cap; }
    return wall ? t : FAR;
}

vec3 shade(vec3 ro, vec3 rd) {
    vec3 base = mix(second_colour, vec3(0.55), 0.12) * mix(1.0, 0.45, stage);
    float tw = (4.5 - ro.z) / max(rd.z, 0.1);
    vec3 w = ro + rd * tw;
    float tf = rd.y < -1e-4 ? -ro.y / rd.y : FAR;
    vec3 f = ro + rd * min(tf, 60.0);
    vec2 d = w.xy - vec2(0.0, 1.5);
    vec3 wall = base * (0.55 + 0.65 * exp(-dot(d, d) * mix(0.07, 0.10, stage)));
    float pleat = 0.5 + 0.5 * sin(w.x * 2.6);
    float curtain = stage * smoothstep(2.1, 2.4, abs(w.x));
    wall = mix(wall, base * (0.35 + 0.35 * pleat), curtain * (1.0 - plinth.z));
    float e = PIXEL * tw;
    vec3 bright = mix(second_colour, vec3(1.0), 0.45) * (0.85 + 0.1 * d.y);
    wall = mix(wall, bright, disc.w * (1.0 - smoothstep(disc.z - e, disc.z + e, length(w.xy - disc.xy))));
    vec3 ground = base * (0.72 + 0.5 * exp(-0.20 * dot(f.xz, f.xz)));
    ground = mix(ground, mix(base * 0.6, vec3(0.12, 0.09, 0.10), 0.4) + 0.35 * base * exp(-0.35 * dot(f.xz, f.xz)), stage);
    float foot = length(f.xz) - plinth.x;
    ground *= 1.0 - 0.45 * plinth.w * exp(-max(foot, 0.0) * 3.0);
    ground = ground * mix(1.0, blob_shadow(f.xz), 1.0 - plinth.w) + blob_light(f.xz) * 0.3 * base;
    float horizon = smoothstep(4.5 - mix(0.05, 3.2, plinth.z), 4.5, f.z);
    vec3 c = tf < tw ? mix(ground, wall, horizon) : wall;
    vec3 n;
    float t = hit_cylinder(ro, rd, plinth.x, plinth.y, n);
    if (plinth.w > 0.5 && t < FAR * 0.5) {
        vec3 p = ro + rd * t;
        vec3 stone = mix(vec3(0.80, 0.79, 0.77), second_colour, 0.25) * mix(1.0, 0.75, stage);
        float l = 0.35 + 0.65 * smoothstep(-0.6, 1.0, dot(n, normalize(vec3(-0.5, 0.7, -0.6))));
        c = stone * l * (n.y > 0.5 ? blob_shadow(p.xz) : 0.8 + 0.2 * p.y / plinth.y) + blob_light(p.xz) * max(n.y, 0.0) * 0.4;
    }
    return c;
}
