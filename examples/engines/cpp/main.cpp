// Runs a layer out of a library that moec made, on the tensors of a published block: `main FOLDER`, which tensors.py has filled.
#include "mixtral.h"
#include "moec.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>

namespace {

std::vector<float> read(const std::string &path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw std::runtime_error("cannot read " + path);
    std::vector<float> numbers(static_cast<std::size_t>(file.tellg()) / sizeof(float));
    file.seekg(0).read(reinterpret_cast<char *>(numbers.data()), static_cast<std::streamsize>(numbers.size() * sizeof(float)));
    return numbers;
}

int compare(const std::string &folder) {
    constexpr std::int64_t hidden = 32, experts = 8, intermediate = 96;
    const auto x = read(folder + "/x.bin"), expected = read(folder + "/y.bin");
    const auto router = read(folder + "/router.bin"), gate = read(folder + "/gate.bin"), up = read(folder + "/up.bin"), down = read(folder + "/down.bin");
    const auto tokens = static_cast<std::int64_t>(x.size()) / hidden;

    moec::Layer layer(mixtral_get_api);
    layer.bind({{router.data(), {experts, hidden}},
                {gate.data(), {experts, intermediate, hidden}},
                {up.data(), {experts, intermediate, hidden}},
                {down.data(), {experts, hidden, intermediate}}});
    const moec::Memory workspace = layer.workspace(tokens);

    std::vector<float> y(expected.size());
    layer.run({{x.data(), {tokens, hidden}}, {y.data(), {tokens, hidden}}}, workspace);

    float largest = 0;
    for (const float value : expected) largest = std::max(largest, std::abs(value));
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < y.size(); i++) wrong += !(std::abs(y[i] - expected[i]) <= 2e-5f * largest);
    std::cout << layer.info().layer << " on " << layer.target() << ": T = " << tokens << ", " << wrong << " of " << y.size()
              << " outputs differ from the published block\n";
    try {
        layer.run({{x.data(), {tokens, hidden - 1}}, {y.data(), {tokens, hidden}}}, workspace);
        return 1;
    } catch (const moec::Error &error) {
        std::cout << "a wrong shape: " << error.what() << "\n";
        return wrong == 0 && error.status() == MOEC_E_SHAPE ? 0 : 1;
    }
}

}  // namespace

int main(int argc, char **argv) {
    try {
        return compare(argc > 1 ? argv[1] : ".");
    } catch (const std::exception &error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
}
