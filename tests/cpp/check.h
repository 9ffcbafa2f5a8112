// A test is a function registered under the property it proves; CHECK reports and goes on, CHECK_THROWS wants that
// error.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace mome::test {

struct Test {
    std::string name;
    std::function<void()> body;
};

// The tests of this program, in the order in which they are written.
inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

inline int& failures() {
    static int count = 0;
    return count;
}

struct Registration {
    Registration(std::string name, std::function<void()> body) {
        tests().push_back({std::move(name), std::move(body)});
    }
};

inline void report(const char* file, int line, const std::string& what) {
    ++failures();
    std::printf("%s:%d: %s\n", file, line, what.c_str());
}

// Runs every test, and `after_each` as a part of it; the exit status of the program.
inline int run(const std::function<void()>& after_each = {}) {
    for (const Test& test : tests()) {
        const int before = failures();
        try {
            test.body();
        } catch (const std::exception& error) {
            report("uncaught", 0, error.what());
        }
        if (after_each) after_each();
        std::printf("%s %s\n", failures() == before ? "ok  " : "FAIL", test.name.c_str());
    }
    return failures() == 0 ? 0 : 1;
}

}  // namespace mome::test

#define MOME_JOIN_(a, b) a##b
#define MOME_JOIN(a, b) MOME_JOIN_(a, b)

#define TEST(property)                                                                                              \
    static void MOME_JOIN(test_, __LINE__)();                                                                       \
    static const mome::test::Registration MOME_JOIN(registration_, __LINE__)(property, MOME_JOIN(test_, __LINE__)); \
    static void MOME_JOIN(test_, __LINE__)()

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) mome::test::report(__FILE__, __LINE__, "not " #condition); \
    } while (false)

#define CHECK_THROWS(Error, expression, ...)                                                  \
    do {                                                                                      \
        bool thrown = false;                                                                  \
        try {                                                                                 \
            static_cast<void>(expression);                                                    \
        } catch (const Error& error) {                                                        \
            thrown = true;                                                                    \
            static_cast<void>(error);                                                         \
            __VA_OPT__(CHECK(__VA_ARGS__);)                                                   \
        }                                                                                     \
        if (!thrown) mome::test::report(__FILE__, __LINE__, #expression " threw no " #Error); \
    } while (false)
