// A subject (avatar, vehicle or floating object) by sphere tracing inside its bounding sphere.
// BODY (a define) chooses the distance function: a program holds one body only, branches cost everywhere.
uniform vec3 joint[15];
uniform vec4 bound;            // bounding sphere in the world
uniform mat3 turn;             // world to body axes
uniform vec3 place;            // body's origin in the world
uniform float size;
uniform vec3 body_colour, trim_colour, skin_colour, hair_colour, rim_colour;
uniform vec4 material;         // gloss, metal, glow, flatness of the fill light
uniform float fade;            // share of the haze in front of the subject

float capsule(vec3 p, vec3 a, vec3 b, float r) {
    vec3 pa = p - a, ba = b - a;
    return length(pa - ba * clamp(dot(pa, ba) / dot(ba, ba), 0.0, 1.0)) - r;
}
float cone(vec3 p, vec3 a, vec3 b, float r, float s) {
    vec3 pa = p - a, ba = b - a;
    float h = clamp(dot(pa, ba) / dot(ba, ba), 0.0, 1.0);
    return length(pa - ba * h) - mix(r, s, h);
}
float block(vec3 p, vec3 b, float r) {
    vec3 q = abs(p) - b + r;
    return length(max(q, 0.0)) + min(max(q.x, max(q.y, q.z)), 0.0) - r;
}
float join(float a, float b, float k) {
    float h = max(k - abs(a - b), 0.0) / k;
    return min(a, b) - h * h * k * 0.25;
}

#if BODY == 0 || BODY == 1
float torso(vec3 p) {
    float d = cone(p, joint[0], joint[1] + vec3(0.0, 0.03, 0.0), 0.145, 0.195);
    return join(d, capsule(p, joint[3], joint[6], 0.095), 0.10);
}
float arms(vec3 p) {
    float d = min(cone(p, joint[3], joint[4], 0.088, 0.075), cone(p, joint[6], joint[7], 0.088, 0.075));
    return min(d, min(cone(p, joint[4], joint[5], 0.075, 0.068), cone(p, joint[7], joint[8], 0.075, 0.068)));
}
float legs(vec3 p) {
    float d = min(cone(p, joint[9], joint[10], 0.115, 0.092), cone(p, joint[12], joint[13], 0.115, 0.092));
    return min(d, min(cone(p, joint[10], joint[11], 0.092, 0.080), cone(p, joint[13], joint[14], 0.092, 0.080)));
}
float hands(vec3 p) { return min(length(p - joint[5]), length(p - joint[8])) - 0.088; }
float shoes(vec3 p) {
    vec3 toe = vec3(0.0, -0.015, -0.10);
    return min(capsule(p, joint[11], joint[11] + toe, 0.085), capsule(p, joint[14], joint[14] + toe, 0.085));
}
float head(vec3 p) {
    vec3 q = p - joint[2];
#if BODY == 1
    return block(q, vec3(0.21, 0.18, 0.18), 0.08);
#else
    return length(q * vec3(1.0, 0.92, 1.0)) - 0.205;
#endif
}
float hair(vec3 p) {
    vec3 q = p - joint[2] - vec3(0.0, 0.03, 0.03);
    return max(length(q) - 0.225, -(q.y + 0.9 * q.z + 0.115) * 0.74);
}
float body(vec3 p) {
    float d = join(join(torso(p), arms(p), 0.05), legs(p), 0.06);
    d = min(min(d, hands(p)), min(shoes(p), head(p)));
#if BODY == 0
    d = min(d, hair(p));
#endif
    return d;
}
vec4 paint(vec3 p) {   // colour, glow
    float best = torso(p);
    vec3 c = body_colour;
    float d = arms(p);
    if (d < best) { best = d; c = body_colour * 0.92; }
    d = legs(p);
    if (d < best) { best = d; c = trim_colour; }
    d = hands(p);
    if (d < best) { best = d; c = skin_colour; }
    d = shoes(p);
    if (d < best) { best = d; c = hair_colour * 0.8 + 0.02; }
    d = head(p);
    vec3 q = p - joint[2];
    float glow = 0.0;
    if (d < best) {
        best = d;
        c = skin_colour;
#if BODY == 1
        float visor = step(q.z, -0.05) * (1.0 - smoothstep(0.15, 0.165, abs(q.x))) * band(q.y, -0.055, 0.085, 0.01);
        c = mix(c, vec3(0.03, 0.03, 0.05), visor);
        vec2 eye = vec2(abs(q.x) - 0.075, q.y - 0.015);
        glow = visor * (1.0 - smoothstep(0.036, 0.046, length(eye)));
        c = mix(c, rim_colour + 0.35, glow);
#else
        vec2 eye = vec2(abs(q.x) - 0.075, (q.y + 0.005) * 0.75);
        c = mix(c, vec3(0.04, 0.03, 0.04), step(q.z, 0.0) * (1.0 - smoothstep(0.026, 0.036, length(eye))));
#endif
    }
#if BODY == 0
    if (hair(p) < best) c = hair_colour;
#endif
    return vec4(c, glow);
}
#elif BODY == 2   // car: hovering, rounded, with a broad cabin and lamps
float hull(vec3 p) {
    float d = block(p - vec3(0.0, -0.06, 0.0), vec3(1.0, 0.20, 0.46), 0.17);
    return d;
}
float cabin(vec3 p) { return block(p - vec3(-0.12, 0.20, 0.0), vec3(0.52, 0.24, 0.38), 0.18); }
float pods(vec3 p) {
    vec3 q = vec3(abs(p.x) - 0.60, p.y + 0.27, abs(p.z) - 0.40);
    return length(vec3(q.x, q.y * 1.2, q.z * 1.5)) * 0.72 - 0.16;
}
float body(vec3 p) { return min(join(hull(p), cabin(p), 0.12), pods(p)); }
vec4 paint(vec3 p) {
    if (pods(p) < min(hull(p), cabin(p)) - 0.01) return vec4(mix(rim_colour, vec3(0.6, 0.85, 1.0), 0.4), 0.9);
    if (cabin(p) < hull(p) && p.y < 0.36) return vec4(vec3(0.05, 0.08, 0.13), 0.0);
    vec2 lamp = vec2(p.y + 0.02, abs(p.z) - 0.26);
    float front = step(0.9, abs(p.x)) * (1.0 - smoothstep(0.09, 0.11, length(lamp)));
    vec3 tail = p.x > 0.0 ? vec3(1.0, 0.9, 0.65) : vec3(1.0, 0.12, 0.08);
    return vec4(mix(body_colour, tail, front), front);
}
#elif BODY == 3   // ship: a pointed hull with fins and a bright engine
float hull(vec3 p) {
    float r = 0.34 * sqrt(max(0.0, 1.0 - pow(clamp((p.x + 0.15) / 1.15, -1.0, 1.0), 2.0)));
    float d = length(p.yz) - r;
    return max(d * 0.72, abs(p.x + 0.02) - 0.95);
}
float fins(vec3 p) {
    vec3 q = vec3(p.x + 0.55 + 0.55 * abs(p.z), p.y, abs(p.z) - 0.42);
    float d = block(q, vec3(0.24, 0.06, 0.40), 0.05);
    return min(d * 0.85, block(vec3(p.x + 0.62 + 0.5 * (p.y - 0.3), p.y - 0.36, p.z), vec3(0.22, 0.24, 0.055), 0.05) * 0.85);
}
float engine(vec3 p) { return capsule(p, vec3(-0.85, 0.0, 0.0), vec3(-1.0, 0.0, 0.0), 0.21); }
float body(vec3 p) { return min(min(hull(p), fins(p)), engine(p)); }
vec4 paint(vec3 p) {
    float h = hull(p), f = fins(p);
    if (engine(p) < min(h, f)) return vec4(mix(vec3(1.0, 0.75, 0.4), rim_colour, 0.3), 1.0);
    if (f < h) return vec4(trim_colour, 0.0);
    float glass = band(p.x, 0.28, 0.58, 0.03) * smoothstep(0.02, 0.06, p.y);
    return vec4(mix(body_colour, vec3(0.06, 0.10, 0.16), glass), 0.0);
}
#else             // floating objects
float body(vec3 p) {
#if BODY == 4
    return length(p) - 0.95;
#elif BODY == 5
    return block(p, vec3(0.74), 0.10);
#elif BODY == 6
    return length(vec2(length(p.xy) - 0.68, p.z)) - 0.29;
#elif BODY == 7
    float k = max(abs(p.x), abs(p.z));
    return max((k * 0.89 + p.y * 0.45) - 0.36, -p.y - 0.74) - 0.05;
#elif BODY == 8
    vec2 q = abs(p.xz);
    float k = max(q.x, max(q.y, (q.x + q.y) * 0.7071));
    return max(k - 0.52, k * 0.75 + abs(p.y) * 0.66 - 0.70) - 0.03;
#elif BODY == 9
    return capsule(p, vec3(-0.36, -0.36, 0.0), vec3(0.36, 0.36, 0.0), 0.46);
#else
    float r = 0.36 + 0.24 * sin(p.y * 3.1 + 2.3) * smoothstep(-1.2, 0.2, 0.9 - p.y) + 0.04;
    return max((length(p.xz) - r) * 0.72, abs(p.y) - 0.92) - 0.03;
#endif
}
vec4 paint(vec3 p) {
    float mark;
#if BODY == 4
    mark = band(p.y, -0.2, 0.2, 0.02) ;
    mark = max(mark, band(atan(p.z, p.x), -0.35, 0.35, 0.03));
#elif BODY == 5
    vec3 q = abs(p);
    float face = q.x > max(q.y, q.z) ? length(p.yz) : (q.y > q.z ? length(p.xz) : length(p.xy));
    mark = 1.0 - smoothstep(0.36, 0.40, face);
#elif BODY == 6
    mark = smoothstep(0.0, 0.12, sin(atan(p.y, p.x) * 3.0) - 0.35);
#elif BODY == 7
    mark = smoothstep(0.14, 0.18, p.y);
#elif BODY == 8
    mark = band(p.y, -0.16, 0.16, 0.02);
#elif BODY == 9
    mark = smoothstep(-0.02, 0.02, p.x + p.y);
#else
    mark = band(p.y, -0.35, 0.05, 0.02);
#endif
    return vec4(mix(body_colour, trim_colour, mark * 0.85), 0.0);
}
#endif

vec3 to_body(vec3 p) { return turn * (p - place) / size; }

vec3 normal_at(vec3 p) {
    vec2 e = vec2(0.012, -0.012);
    return normalize(e.xyy * body(p + e.xyy) + e.yyx * body(p + e.yyx) + e.yxy * body(p + e.yxy) + e.xxx * body(p + e.xxx));
}

vec3 surroundings(vec3 r) {
    vec3 floor_colour = mix(fog_colour, main_colour, 0.3) * 0.45;
    vec3 c = mix(floor_colour, mix(sky_low, sky_top, clamp(r.y, 0.0, 1.0)), smoothstep(-0.15, 0.2, r.y));
    return c + vec3(0.9) * smoothstep(0.75, 0.9, dot(r, normalize(vec3(-0.5, 0.7, -0.6))));
}

vec3 shade(vec3 ro, vec3 rd) { return vec3(0.0); }

// Colour of one sample times its coverage, and the coverage.
vec4 trace(vec3 ro, vec3 rd) {
    vec3 o = ro - bound.xyz;
    float b = dot(o, rd), h = b * b - dot(o, o) + bound.w * bound.w;
    float reach = sqrt(max(h, 0.0));
    float t = max(-b - reach, 0.0), end = h > 0.0 ? -b + reach : -1.0, least = 1e3, d = 1.0;
    vec3 bo = to_body(ro), bd = turn * rd / size;
    for (int i = 0; i < 30; i++) {
        d = body(bo + bd * t) * size;
        least = min(least, d / t);
        t += d;
        if (d < 0.003 || t > end) break;
    }
    bool hit = d < 0.012 && t <= end;
    vec3 halo = body_colour * material.z * 0.38 * exp(-least * 20.0) * smoothstep(0.0, 0.45, h / (bound.w * bound.w));
    if (!hit) return vec4(halo * step(0.0, end), 0.0);
    vec3 p = bo + bd * t, world = ro + rd * t;
    vec3 n = normal_at(p) * turn;
    vec4 k = paint(p);
    float key = smoothstep(-0.25, 0.95, dot(n, normalize(sun_dir * vec3(1.0, 1.0, 0.35) + vec3(-0.25, 0.45, -0.75))));
    float open = clamp(body(p + (turn * n) * 0.22) / 0.22, 0.3, 1.0);
    vec3 fill = ambient * (0.80 + 0.25 * n.y) + 0.10 + material.w;
    vec3 lamp = mix(sun_colour, vec3(0.55 * luma(sun_colour) + 0.60), 0.55);
    vec3 c = k.rgb * (fill * mix(0.55, 1.0, open) + lamp * key * mix(0.8, 1.0, open));
    vec3 r = reflect(rd, n);
    float edge = pow(1.0 - max(dot(n, -rd), 0.0), 3.0);
    vec3 mirrored = surroundings(r);
    c = mix(c, mirrored * mix(vec3(1.0), k.rgb * 1.35 + 0.06, 0.9) + 0.25 * k.rgb * fill, material.y * 0.72);
    c += mirrored * material.x * (0.08 + 0.4 * edge);
    c += rim_colour * edge * (0.10 + 0.45 * night) * open;
    c = mix(c, k.rgb * (0.80 + 0.60 * max(dot(n, -rd), 0.0)), material.z);
    c = mix(c, k.rgb * 1.6, k.a);
    c = mix(c, fog_colour, fade);
    return vec4(tone(c), 1.0);
}

void main() {
    vec4 c = vec4(0.0);
    for (int s = 0; s < 4; s++) {
        vec2 o = s < 2 ? (s == 0 ? vec2(-0.375, -0.125) : vec2(0.125, -0.375)) : (s == 2 ? vec2(0.375, 0.125) : vec2(-0.125, 0.375));
        c += trace(cam_pos, view_ray(screen + o * (2.0 / 128.0)));
    }
    fragment = c * 0.25;
}
