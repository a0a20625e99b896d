// Landscape: ridges one behind another, each a smooth curve in its own plane, with round trees or rocks.
uniform vec4 ridge[5];     // plane z, base height, amplitude, phase
uniform vec4 tree[8];      // x, z, height of the crown's centre, radius
uniform vec4 cloud[5];     // x and y on the sky plane, width, height
uniform vec3 ground_colour, crown_colour, ridge_near, ridge_far, shore_colour;
uniform float sharp;       // 0 rolling hills, 1 peaks
uniform float water_from;  // water beyond this z
uniform float snow, trunk, sharp_dune;

float outline(float x, vec4 r) {
    float k = 9.0 / r.x;
    float smooth_hill = 0.55 * sin(x * 0.33 * k * 2.0 + r.w) + 0.30 * sin(x * 0.71 * k * 2.0 + r.w * 2.3);
    float peak = 1.0 - 1.5 * abs(fract(x * 0.085 * k * 2.0 + r.w) - 0.5) - 0.9 * abs(fract(x * 0.19 * k * 2.0 + r.w * 1.7) - 0.5);
    return r.y + r.z * mix(0.5 + smooth_hill, 1.3 * peak + 0.3, sharp);
}

vec3 clouds(vec3 c, vec3 rd) {
    vec2 q = rd.xy / max(rd.z, 0.2);
    float cover = 0.0, lit = 0.0;
    for (int i = 0; i < 5; i++) {
        vec2 d = (q - cloud[i].xy - vec2(0.03 * moment, 0.0)) / cloud[i].zw;
        float puff = exp(-dot(d, d));
        vec2 e = d - vec2(0.75, 0.25), g = d + vec2(0.8, 0.2);
        puff = max(puff, max(0.9 * exp(-1.6 * dot(e, e)), 0.9 * exp(-1.6 * dot(g, g))));
        cover = max(cover, smoothstep(0.42, 0.62, puff));
        lit = max(lit, puff * clamp(0.75 + 0.5 * d.y, 0.0, 1.2));
    }
    vec3 body = mix(sky_low * 0.85, sky_low * 0.5 + sun_colour * 0.42 + 0.15 * ambient, lit);
    return mix(c, body, cover * 0.9);
}

vec3 ridge_colour(float x, float y, vec4 r, float share) {
    float e = 0.02 * r.x;
    float top = outline(x, r);
    float drop = top - y;
    float lean = (outline(x + e + drop * 0.35 * sharp, r) - outline(x - e + drop * 0.35 * sharp, r)) / (2.0 * e);
    vec3 n = normalize(vec3(-lean, 0.9, -0.55));
    vec3 base = mix(ridge_near, ridge_far, share);
    float cap = snow > 0.5 ? 1.0 - smoothstep(r.z * 0.2, r.z * 0.55, drop)
        : sharp * (1.0 - smoothstep(r.z * 0.22, r.z * 0.34, drop + 0.1 * r.z * sin(x * 12.0 / r.x)));
    base = mix(base, vec3(0.86, 0.88, 0.92), cap * 0.85);
    vec3 c = base * (ambient * (0.9 + 0.3 * n.y) + sun_colour * max(dot(n, sun_dir * vec3(1.0, 1.0, -0.6)), 0.0) * 0.9);
    return c * (0.85 + 0.3 * exp(-drop * 3.0 / r.z));
}

vec3 water(vec3 p, vec3 rd, float t) {
    vec3 mirrored = vec3(rd.x, abs(rd.y) + 0.02, rd.z);
    float swell = 0.5 + 0.5 * sin(p.z * 0.9 + p.x * 0.25 + moment * 3.2);
    vec3 deep = mix(sky_top * 0.4, ground_colour, 0.75);
    vec3 c = deep * (ambient + sun_colour * 0.35) * (0.86 + 0.22 * swell * exp(-t * 0.06));
    c = mix(c, sky(normalize(mirrored)), 0.2 + 0.45 * pow(1.0 + rd.y, 5.0));
    float glint = exp(-pow((p.x - sun_dir.x / max(sun_dir.z, 0.2) * p.z) / (1.0 + 0.10 * p.z), 2.0));
    return c + sun_colour * 0.16 * glint;
}

vec3 shade(vec3 ro, vec3 rd) {
    vec3 c = clouds(sky(rd), rd);
    float inv_z = 1.0 / max(rd.z, 0.05);
    for (int i = 4; i >= 0; i--) {
        float t = (ridge[i].x - ro.z) * inv_z;
        float x = ro.x + rd.x * t, y = ro.y + rd.y * t;
        float w = PIXEL * t;
        float cover = 1.0 - smoothstep(-w * 0.5, w * 0.5, y - outline(x, ridge[i]));
        vec3 r = haze(ridge_colour(x, y, ridge[i], float(i) * 0.25), t * 0.8 + 5.0);
        r = mix(r, fog_colour, 0.35 * exp(-max(y, 0.0) * 1.2) * smoothstep(8.0, 30.0, t));
        c = mix(c, r, cover);
    }
    float tg = rd.y < -1e-4 ? -ro.y / rd.y : FAR;
    vec3 p = ro + rd * min(tg, 400.0);
    float shadow = blob_shadow(p.xz);
    float best = FAR;
    vec3 centre = vec3(0.0);
    float radius = 1.0, stem = 0.0, stem_t = FAR;
    for (int i = 0; i < 8; i++) {
        vec4 k = tree[i];
        vec3 at = vec3(k.x, k.z, k.y);
        float s = hit_sphere(ro, rd, at, k.w);
        if (s < best) { best = s; centre = at; radius = k.w; }
        vec2 d = (p.xz - k.xy + sun_dir.xz * 0.5 * k.z) / (k.w * 1.1);
        shadow *= 1.0 - 0.5 * exp(-1.6 * dot(d, d));
        float ts = (k.y - ro.z) * inv_z;
        vec3 q = ro + rd * ts;
        float in_stem = trunk * step(abs(q.x - k.x), 0.17 * k.w) * step(0.0, q.y) * step(q.y, k.z);
        if (in_stem > 0.5 && ts < stem_t) { stem_t = ts; stem = (q.x - k.x) / (0.17 * k.w); }
    }
    if (tg < (ridge[0].x - ro.z) * inv_z + 60.0) {
        float roll = sharp_dune * sin(p.x * 0.55 + p.z * 0.8 + seed.x * 6.0) + (1.0 - sharp_dune) * sin(p.x * 0.4 + seed.x * 6.0) * sin(p.z * 0.5);
        vec3 soil = mix(ground_colour, vec3(0.93, 0.94, 0.97), 0.85 * snow) * (1.0 + 0.12 * roll);
        vec3 g = soil * (ambient + sun_colour * max(sun_dir.y, 0.38) * 0.9) * shadow + soil * blob_light(p.xz);
        float wet = smoothstep(water_from - 0.25, water_from + 0.25, p.z + 0.4 * sin(p.x * 0.7 + seed.y * 6.0));
        vec3 beach = mix(shore_colour * (ambient + sun_colour * 0.5) * shadow, water(p, rd, tg), wet);
        g = water_from < 90.0 ? beach : g;
        float far_edge = 1.0 - smoothstep(ridge[0].x + 50.0, ridge[0].x + 60.0, p.z);
        float before = step(tg, (ridge[0].x - ro.z) * inv_z);
        c = mix(c, haze(g, tg), max(before, water_from < 90.0 ? 0.0 : 0.0) * far_edge);
    }
    if (stem_t < min(best, FAR) && stem_t > 0.0) {
        vec3 wood = vec3(0.16, 0.09, 0.06) * (ambient + sun_colour * (0.5 + 0.4 * stem * sign(sun_dir.x)));
        c = haze(wood, stem_t);
    }
    if (best < FAR * 0.5) {
        vec3 q = ro + rd * best;
        if (q.y > 0.0) {
            vec3 n = (q - centre) / radius;
            vec3 leaf = mix(crown_colour, vec3(0.88, 0.9, 0.94), snow * smoothstep(0.05, 0.5, n.y));
            leaf *= 0.7 + 0.3 * smoothstep(-1.0, 0.8, n.y);
            float sun = smoothstep(-0.3, 0.9, dot(n, normalize(sun_dir + vec3(0.0, 0.3, -0.5))));
            c = haze(leaf * (ambient * (0.75 + 0.35 * n.y) + sun_colour * sun), best);
        }
    }
    return c;
}
