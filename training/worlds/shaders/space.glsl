// Space: a planet, rings, moons or rocks before a soft nebula with a few large stars.
uniform vec4 planet;           // centre, radius
uniform vec4 moon[6];          // centre, radius; rocks when `rocky`
uniform vec3 ring_axis;
uniform float ring_on, rocky, nebula_on, turn;
uniform vec4 star[14];         // direction, size in radians

vec3 nebula(vec3 rd) {
    vec3 q = rd * 2.1 + seed.xyz * 9.0;
    float a = 0.0, g = 1.0;
    for (int i = 0; i < 2; i++) {
        q += 0.75 * sin(q.yzx * 1.55 + vec3(0.0, 1.3, 2.1) + moment * 0.12);
        a += g * (0.5 + 0.5 * sin(q.x * 0.9 + q.y * 0.7));
        g *= 0.6;
    }
    a = smoothstep(0.35, 1.65, a);
    a = mix(a, 0.30 + 0.70 * smoothstep(0.0, 0.8, a), nebula_on);
    float b = 0.5 + 0.5 * sin(q.z * 0.8 + 1.0);
    vec3 deep = vec3(0.006, 0.008, 0.022) + main_colour * 0.02;
    vec3 cloud = mix(main_colour * 0.55, mix(main_colour, second_colour, 0.35) * 0.5, b * b);
    return deep + cloud * a * mix(0.28, 1.9, nebula_on);
}

vec3 shade(vec3 ro, vec3 rd) {
    vec3 c = nebula(rd);
    for (int i = 0; i < 14; i++) {
        float d = acos(clamp(dot(rd, star[i].xyz), -1.0, 1.0)) / star[i].w;
        c += vec3(1.0, 0.95, 0.88) * (1.3 * exp(-d * d * 1.4) + 0.05 * exp(-0.25 * d * d));
    }
    float t = hit_sphere(ro, rd, planet.xyz, planet.w);
    vec3 o = planet.xyz - ro;
    float along = dot(o, rd), miss = sqrt(max(dot(o, o) - along * along, 0.0)) / planet.w;
    c += mix(main_colour, vec3(0.6, 0.8, 1.0), 0.25) * 0.55 * exp(-9.0 * max(miss - 1.0, 0.0)) * step(0.0, along)
        * (0.35 + 0.65 * smoothstep(-0.6, 0.8, dot(normalize(rd * along - o), sun_dir)));
    if (t < FAR * 0.5) {
        vec3 p = ro + rd * t, n = (p - planet.xyz) / planet.w;
        float lat = dot(n, ring_axis);
        vec3 east = normalize(cross(ring_axis, vec3(0.3, 0.1, 0.9)));
        float lon = atan(dot(n, cross(ring_axis, east)), dot(n, east)) + turn;
        float stripe = sin(lat * 7.0 + seed.y * 6.0 + 0.35 * sin(lon * 2.0));
        float land = sin(lon * 2.0 + 2.0 * lat) * cos(lat * 3.2 + seed.z * 4.0) + 0.45 * sin(lon * 3.0 - lat * 4.0);
        float mark = seed.w < 0.5 ? smoothstep(-0.35, 0.35, stripe) : smoothstep(-0.12, 0.12, land);
        vec3 paint = mix(main_colour * 0.80, mix(main_colour, vec3(0.95, 0.9, 0.85), 0.42), mark);
        float day = smoothstep(-0.15, 0.85, dot(n, sun_dir));
        float rim = pow(1.0 - max(dot(n, -rd), 0.0), 3.0);
        c = paint * (0.05 + 1.35 * day) + main_colour * rim * (0.15 + 0.6 * day);
    }
    for (int i = 0; i < 6; i++) {
        float s = hit_sphere(ro, rd, moon[i].xyz, moon[i].w);
        if (s < t) {
            t = s;
            vec3 n = (ro + rd * s - moon[i].xyz) / moon[i].w;
            float spin = turn * (1.0 + 0.3 * float(i));
            vec3 m = vec3(cos(spin) * n.x + sin(spin) * n.z, n.y, cos(spin) * n.z - sin(spin) * n.x);
            vec3 bump = rocky * 0.55 * sin(m.yzx * 4.2 + float(i) * 2.0 + seed.xyz * 5.0);
            n = normalize(n + bump);
            vec3 paint = mix(mix(vec3(0.55, 0.52, 0.50), main_colour, 0.45 + 0.35 * rocky), second_colour, (1.0 - rocky) * (i == 1 ? 0.7 : 0.1));
            paint *= 0.85 + 0.25 * sin(m.x * 3.0 + m.y * 4.0 + float(i));
            c = paint * (0.05 + 1.25 * smoothstep(-0.1, 0.9, dot(n, sun_dir)));
        }
    }
    float rt = dot(planet.xyz - ro, ring_axis) / (dot(rd, ring_axis) + 1e-4);
    if (ring_on > 0.5 && rt > 0.0 && rt < t) {
        vec3 p = ro + rd * rt - planet.xyz;
        float r = length(p) / planet.w, w = 0.05;
        float ring = band(r, 1.38, 1.78, w) * 0.9 + band(r, 1.92, 2.2, w) * 0.65;
        float lit = 1.0;
        float behind = dot(p, sun_dir);
        float off = length(p - sun_dir * behind) / planet.w;
        lit = behind < 0.0 ? smoothstep(0.9, 1.1, off) : 1.0;
        c = mix(c, mix(second_colour, vec3(0.9, 0.85, 0.8), 0.3) * (0.12 + 0.75 * lit), ring * 0.9);
    }
    return c + blob_glow * 0.0;
}
