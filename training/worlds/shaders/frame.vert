#version 330 core
// One quad over the frame's cell of the atlas.
in vec2 corner;
out vec2 screen;
void main() {
    screen = corner;
    gl_Position = vec4(corner, 0.0, 1.0);
}
