// City: boxes with large lit windows along a street or as a skyline over water; wet ground mirrors them.
uniform vec4 box_lo[16];   // xyz corner, w: shade of the building 0..1, above 1 a neon sign
uniform vec4 box_hi[16];   // xyz corner, w: seed of its windows
uniform vec3 light_colour[4];  // window light: warm, main, second, off
uniform float street;      // 1 street, 0 skyline over water

vec3 facade(vec3 p, vec3 n, float t, vec3 rd, float tone_of, float id, vec3 hi, vec3 lo, float blur) {
    vec3 wall = mix(vec3(luma(main_colour)) * 0.55 + 0.12, main_colour, 0.72 + 0.25 * tone_of) * (0.5 + 0.5 * tone_of);
    wall = mix(wall, wall * 0.16 + vec3(0.010, 0.012, 0.026), night);
    float sun = max(dot(n, sun_dir), 0.0);
    vec3 c = wall * (ambient * (0.65 + 0.35 * n.y + 0.12 * n.x) + sun_colour * sun);
    c *= 0.62 + 0.38 * smoothstep(0.0, 3.0, p.y);
    if (n.y > 0.5) return c;
    float u = abs(n.x) > 0.5 ? p.z : p.x;
    float along = abs(n.x) > 0.5 ? abs(rd.x) : abs(rd.z);
    vec2 cell = vec2(2.4, 2.1);
    vec2 g = vec2(u - lo.x, p.y - 0.5) / cell;
    vec2 k = floor(g), f = g - k;
    float foot = PIXEL * t / max(along, 0.08) / cell.x * blur;
    float soft = clamp(foot, 0.04, 0.3), softy = clamp(PIXEL * t * blur / cell.y, 0.05, 0.3);
    float pane = band(f.x, 0.2, 0.8, soft) * band(f.y, 0.2, 0.78, softy);
    pane = mix(pane, 0.33, smoothstep(0.14, 0.36, foot));
    pane *= 1.0 - smoothstep(hi.y - 0.5, hi.y - 0.3, p.y);
    float r = hash(k.x * 3.7 + k.y * 11.3 + id * 57.0);
    vec3 lit = r < 0.36 ? light_colour[0] : (r < 0.68 ? light_colour[1] : (r < 0.76 ? light_colour[2] : light_colour[3]));
    lit = mix(lit, (light_colour[0] + 1.4 * light_colour[1]) * 0.4, smoothstep(0.14, 0.36, foot));
    vec3 glass = mix(sky_low * 0.55 + 0.1 * main_colour, lit, smoothstep(0.0, 0.6, night));
    c = mix(c, glass, pane);
    // Ground floor: one broad glowing shop front; roof line: a broad neon band.
    float shop = band(p.y, 0.25, 1.35, 0.1) * street;
    c = mix(c, mix(main_colour * 0.6, main_colour * 1.6, night), shop * 0.85);
    float roof = band(p.y, hi.y - 0.42, hi.y - 0.08, clamp(PIXEL * t, 0.03, 0.2));
    return mix(c, mix(main_colour * 0.75, main_colour * 1.9, night), roof * (0.5 + 0.5 * tone_of));
}

vec3 shade(vec3 ro, vec3 rd) {
    vec3 total = vec3(0.0), weight = vec3(1.0);
    float walked = 0.0;
    for (int bounce = 0; bounce < 2; bounce++) {
        float t = FAR;
        vec3 n = vec3(0.0), lo = vec3(0.0), hi = vec3(0.0), inv = safe_inverse(rd), glow = vec3(0.0);
        float kind = 0.0, id = 0.0;
        for (int i = 0; i < 16; i++) {
            vec3 m;
            float s = hit_box(ro, inv, box_lo[i].xyz, box_hi[i].xyz, m);
            if (s < t) { t = s; n = m; kind = box_lo[i].w; id = box_hi[i].w; lo = box_lo[i].xyz; hi = box_hi[i].xyz; }
        }
        float floor_t = rd.y < -1e-4 ? -ro.y / rd.y : FAR;
        bool ground = floor_t < t && bounce == 0;
        t = min(t, bounce == 0 ? floor_t : FAR);
        vec3 p = ro + rd * t;
        vec3 c = sky(rd) + main_colour * 0.22 * night * exp(-5.0 * max(rd.y, 0.0));
        if (t < FAR * 0.5 && !ground) {
            vec3 sign_light = mix(kind < 1.5 ? main_colour : second_colour, vec3(1.0), 0.06) * mix(1.0, 2.1, night);
            vec3 q = (p - lo) / (hi - lo) - 0.5;
            sign_light *= 0.8 + 0.35 * (1.0 - 3.0 * q.y * q.y);
            c = kind > 1.0 ? sign_light : facade(p, n, t + walked, rd, kind, id, hi, lo, 1.0 + 2.5 * float(bounce));
        }
        if (!ground) {
            total += weight * (t < FAR * 0.5 ? haze(c, (t + walked) * 0.9) : c);
            break;
        }
        float side = abs(p.x);
        vec3 road = mix(vec3(0.17, 0.17, 0.19), main_colour, 0.14) * mix(1.0, 0.22, night);
        if (street > 0.5) {
            road = mix(road, road * 1.7 + 0.02, smoothstep(2.9, 3.1, side));
            float mark = band(side, -1.0, 0.16, clamp(PIXEL * t, 0.03, 0.1)) * smoothstep(0.1, 0.3, abs(fract(p.z / 5.0) - 0.5));
            road = mix(road, vec3(0.75) * mix(1.0, 0.4, night), mark * (1.0 - smoothstep(8.0, 16.0, t)));
        } else {
            road = mix(road * 1.5 + 0.02, mix(sky_top * 0.35, main_colour * 0.18, 0.4), smoothstep(1.9, 2.2, p.z));
        }
        vec3 lighted = road * (ambient + sun_colour * max(sun_dir.y, 0.0)) * blob_shadow(p.xz);
        lighted += main_colour * night * 0.10 * street / (1.0 + 0.05 * t * t) + blob_light(p.xz) * 0.35;
        float mirror = street > 0.5 ? mix(0.10, 0.42, night) : mix(0.05, 0.62, smoothstep(1.9, 2.2, p.z));
        mirror *= mix(0.5, 1.0, pow(1.0 + rd.y, 3.0)) * blob_shadow(p.xz);
        float clear = exp(-t * fog_density * 0.9);
        total += (1.0 - clear) * fog_colour + clear * (1.0 - mirror) * lighted;
        weight = vec3(clear * mirror * 0.85);
        walked = t;
        ro = p + vec3(0.0, 1e-3, 0.0);
        rd = normalize(vec3(rd.x, -rd.y, rd.z));
    }
    return total;
}
