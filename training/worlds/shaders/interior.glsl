// Interior: the inside of a box with a large window, block furniture, round lamps, pictures, a portal.
uniform vec4 room;             // half width, height, depth (z of the back wall), kind 0..3
uniform vec4 window_rect;      // on the back wall (or the left one): lo u, hi u, lo y, hi y
uniform float window_side;     // 0 back wall, 1 left wall
uniform vec4 block_lo[10];     // xyz, w: 0 main, 1 second, 2 wood, 3 pale
uniform vec4 block_hi[10];
uniform vec4 lamp[3];          // centre, radius
uniform vec3 lamp_colour;
uniform vec4 picture[4];       // wall (0 back, -1 left, 1 right), centre along, half width, hue 0..1
uniform vec4 rug;              // x, z, radius x, radius z
uniform vec4 portal;           // x, y, radius, on

vec3 outside(vec3 rd) {
    vec3 c = sky(rd);
    float hill = 0.06 + 0.05 * sin(rd.x * 7.0 + seed.x * 6.0);
    return mix(c, mix(fog_colour, main_colour, 0.3) * (ambient + 0.4 * sun_colour), smoothstep(0.01, -0.01, rd.y - hill));
}

float in_window(vec2 q, float w) {
    float inside = band(q.x, window_rect.x, window_rect.y, w) * band(q.y, window_rect.z, window_rect.w, w);
    float middle = 0.5 * (window_rect.x + window_rect.y);
    return inside * (1.0 - band(q.x, middle - 0.07, middle + 0.07, w));
}

vec3 lamps_on(vec3 p, vec3 n) {
    vec3 c = vec3(0.0);
    for (int i = 0; i < 3; i++) {
        vec3 d = lamp[i].xyz - p;
        float r2 = dot(d, d);
        c += lamp_colour * (0.35 + 0.65 * max(dot(n, d) * inversesqrt(r2), 0.0)) / (1.0 + 0.9 * r2) * step(0.01, lamp[i].w);
    }
    return c * (0.35 + 0.9 * night);
}

vec3 picture_colour(float hue, vec2 q) {
    vec3 a = mix(second_colour, vec3(0.9, 0.85, 0.75), 0.35), b = mix(main_colour * 0.5, vec3(0.08, 0.09, 0.14), 0.5);
    float shape = hue < 0.5 ? length(q - vec2(0.1, -0.05)) - 0.5 : q.y + 0.5 * q.x * (hue * 4.0 - 3.0);
    return mix(a, b, smoothstep(-0.08, 0.08, shape));
}

vec3 shade(vec3 ro, vec3 rd) {
    vec3 inv = safe_inverse(rd);
    vec3 wall_t = (vec3(rd.x >= 0.0 ? room.x : -room.x, rd.y >= 0.0 ? room.y : 0.0, rd.z >= 0.0 ? room.z : -12.0) - ro) * inv;
    float t = min(wall_t.x, min(wall_t.y, wall_t.z));
    vec3 n = t == wall_t.x ? vec3(-sign(inv.x), 0.0, 0.0) : (t == wall_t.y ? vec3(0.0, -sign(inv.y), 0.0) : vec3(0.0, 0.0, -sign(inv.z)));
    vec3 p = ro + rd * t;
    float kind = -1.0, top = 0.0;
    float room_t = t;
    for (int i = 0; i < 10; i++) {
        vec3 m;
        float s = hit_box(ro, inv, block_lo[i].xyz, block_hi[i].xyz, m);
        if (s < t) { t = s; n = m; kind = block_lo[i].w; top = block_hi[i].y; }
    }
    p = ro + rd * t;
    float soft = PIXEL * t;
    vec3 paint = mix(main_colour, vec3(0.75), 0.12);
    vec3 c = paint, emit = vec3(0.0);
    float sheen = 0.0;
    bool back = kind < 0.0 && n.z < -0.5, side = kind < 0.0 && abs(n.x) > 0.5;
    if (kind >= 0.0) {
        c = kind < 0.5 ? main_colour * 0.7 : (kind < 1.5 ? second_colour * 0.85 : (kind < 2.5 ? vec3(0.30, 0.17, 0.09) : mix(vec3(0.74, 0.72, 0.68), main_colour, 0.42)));
    } else if (n.y > 0.5) {
        c = mix(vec3(0.36, 0.24, 0.15), main_colour, 0.22) * (room.w > 1.5 ? 0.75 : 1.0);
        vec2 d = (p.xz - rug.xy) / rug.zw;
        c = mix(c, room.w > 1.5 ? main_colour * 0.5 : mix(main_colour, vec3(0.80, 0.75, 0.66), 0.65), (1.0 - smoothstep(0.96, 1.04, length(d))) * step(0.01, rug.z));
        sheen = room.w > 0.5 ? 0.22 : 0.08;
    } else if (n.y < -0.5) {
        c = mix(vec3(0.8), main_colour, 0.35);
    } else {
        c = mix(c * 0.55, c, smoothstep(0.28 - soft, 0.28 + soft, p.y));
    }
    vec2 q = back ? p.xy : vec2(p.z, p.y);
    if (back || side) {
        for (int i = 0; i < 4; i++) {
            float here = back ? step(abs(picture[i].x), 0.5) : step(0.5, -picture[i].x * n.x);
            vec2 d = (q - vec2(picture[i].y, 1.75)) / vec2(picture[i].z, 0.72);
            float m = max(abs(d.x), abs(d.y)), e = soft / picture[i].z;
            here *= step(0.01, picture[i].z);
            c = mix(c, vec3(0.10, 0.08, 0.07), here * (1.0 - smoothstep(1.16 - e, 1.16 + e, m)));
            c = mix(c, picture_colour(picture[i].w, d), here * (1.0 - smoothstep(1.0 - e, 1.0 + e, m)));
        }
    }
    bool glazed = window_side < 0.5 ? back : (side && n.x > 0.0);
    // Corners are darker; light falls from the window and the lamps.
    float corner = smoothstep(0.0, 1.1, room.y - p.y) * smoothstep(0.0, 1.1, room.x - abs(p.x)) * smoothstep(0.0, 1.3, room.z - p.z);
    float occlusion = kind >= 0.0 ? 0.72 + 0.28 * smoothstep(0.0, 0.8, p.y) + 0.12 * n.y : 0.58 + 0.42 * corner;
    if (kind < 0.0 && n.y > 0.5) {
        for (int i = 0; i < 10; i++) {
            vec2 mid = 0.5 * (block_lo[i].xz + block_hi[i].xz), half_size = 0.5 * (block_hi[i].xz - block_lo[i].xz);
            vec2 d = max(abs(p.xz - mid) - half_size, 0.0);
            occlusion *= 1.0 - 0.45 * exp(-5.0 * dot(d, d)) * step(block_lo[i].y, 0.5) * step(0.01, half_size.x);
        }
        occlusion *= blob_shadow(p.xz);
    }
    vec3 from_window = window_side < 0.5 ? vec3(0.0, 1.7, room.z) : vec3(-room.x, 1.7, 1.5);
    vec3 wd = from_window - p;
    float near_window = 1.0 / (1.0 + 0.10 * dot(wd, wd));
    vec3 lit = ambient * 0.95 + (sky_low * 1.1 + sun_colour * 0.3) * near_window * (0.6 + 0.4 * max(dot(n, normalize(wd)), 0.0));
    lit += lamps_on(p, n) + 0.10 + 0.16 * night;
    vec3 col = c * lit * occlusion;
    // The window's light on the floor.
    vec3 back_to = sun_dir;
    float s = window_side < 0.5 ? (room.z - p.z) / max(back_to.z, 0.15) : (p.x + room.x) / max(-back_to.x, 0.15);
    vec3 w = p + back_to * s;
    float patch_light = in_window(window_side < 0.5 ? w.xy : w.zy, 0.18) * max(n.y, 0.0);
    col += c * sun_colour * patch_light * 0.55 * occlusion;
    if (glazed) col = mix(col, outside(rd), in_window(q, soft));
    if (back && portal.w > 0.5) {
        float d = length(p.xy - portal.xy) / portal.z, e = soft / portal.z;
        float turn = 0.5 + 0.5 * sin(atan(p.y - portal.y, p.x - portal.x) * 2.0 - 6.0 * d + moment * 3.2);
        vec3 core = mix(second_colour * 0.5, mix(second_colour, vec3(1.0), 0.5) * 1.5, (0.25 + 0.5 * turn) * smoothstep(1.0, 0.1, d) + 0.15);
        col = mix(col, core, 1.0 - smoothstep(0.86 - e, 0.86 + e, d));
        col = mix(col, second_colour * 2.2 + 0.1, band(d, 0.86, 1.06, e));
        col += second_colour * 0.55 * exp(-3.0 * max(d - 1.0, 0.0));
    }
    if (sheen > 0.0) {
        vec3 r = vec3(rd.x, -rd.y, rd.z);
        float bt = (room.z - p.z) / max(r.z, 0.05);
        vec3 m = p + r * bt;
        float shine = window_side < 0.5 ? in_window(m.xy, 0.3) : 0.0;
        col += (sky_low * shine + second_colour * portal.w * exp(-2.0 * length(m.xy - portal.xy) / max(portal.z, 0.1))) * sheen * occlusion;
        col += blob_light(p.xz) * 0.5 * c;
    }
    for (int i = 0; i < 3; i++) {
        vec3 o = lamp[i].xyz - ro;
        float along = dot(o, rd);
        float d2 = dot(o, o) - along * along, r2 = lamp[i].w * lamp[i].w;
        if (lamp[i].w > 0.01 && along > 0.0 && along < t + 0.5) {
            float ball = 1.0 - smoothstep(lamp[i].w - soft, lamp[i].w + soft, sqrt(max(d2, 0.0)));
            col += lamp_colour * exp(-d2 / (r2 * 5.0)) * (0.08 + 0.30 * night);
            col = mix(col, lamp_colour * (0.9 + 1.1 * night) + 0.15, ball);
        }
    }
    return haze(col, t * 0.4);
}
