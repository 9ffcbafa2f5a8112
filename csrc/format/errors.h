// The errors that the C++ core reports. Each mirrors the class of the same name in mome_store/errors.py and carries the
// same facts; csrc/python turns one into the other.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace mome {

// A shape, dtype, index or setting does not fit.
struct SchemaError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Bytes on disk are not what was committed.
struct DamagedStoreError : std::runtime_error {
    DamagedStoreError(std::string file_, std::optional<int64_t> row_, std::optional<int64_t> expert_id_,
                      std::string problem_)
        : std::runtime_error(file_ + ": " + problem_),
          file(std::move(file_)),
          row(row_),
          expert_id(expert_id_),
          problem(std::move(problem_)) {}
    std::string file;
    std::optional<int64_t> row;
    std::optional<int64_t> expert_id;
    std::string problem;
};

// Expert ids that the snapshot does not hold.
struct UnknownIdError : std::runtime_error {
    explicit UnknownIdError(std::vector<int64_t> ids_)
        : std::runtime_error("unknown expert ids"), ids(std::move(ids_)) {}
    std::vector<int64_t> ids;
};

// A batch needs more experts at once than there are slots.
struct CapacityError : std::runtime_error {
    CapacityError(int64_t needed_, int64_t slots_)
        : std::runtime_error("more experts than slots"), needed(needed_), slots(slots_) {}
    int64_t needed;
    int64_t slots;
};

// The operating system refused a read.
struct ReadError : std::runtime_error {
    ReadError(std::string path_, int64_t offset_, int error_number_)
        : std::runtime_error(path_ + ": read failed"),
          path(std::move(path_)),
          offset(offset_),
          error_number(error_number_) {}
    std::string path;
    int64_t offset;
    int error_number;
};

// A device has not so much memory.
struct DeviceMemoryError : std::runtime_error {
    DeviceMemoryError(std::string device_, int64_t bytes_)
        : std::runtime_error(device_ + " has no " + std::to_string(bytes_) + " bytes of memory left"),
          device(std::move(device_)),
          bytes(bytes_) {}
    std::string device;
    int64_t bytes;
};

// Something was used after its end, or in a process that it does not belong to.
struct ClosedError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// What went wrong in another thread, as a value: an exception object must not be shared between threads. `raise` makes
// it one again.
struct Failure {
    enum class Kind { none, read, damage, other };

    static Failure of(const ReadError& error) {
        return {.kind = Kind::read, .path = error.path, .offset = error.offset, .error_number = error.error_number};
    }
    static Failure of(const DamagedStoreError& error) {
        return {.kind = Kind::damage,
                .path = error.file,
                .row = error.row,
                .expert_id = error.expert_id,
                .problem = error.problem};
    }
    // Of the exception that is being handled.
    static Failure current() {
        try {
            throw;
        } catch (const ReadError& error) {
            return of(error);
        } catch (const DamagedStoreError& error) {
            return of(error);
        } catch (const std::exception& error) {
            return {.kind = Kind::other, .problem = error.what()};
        }
    }

    explicit operator bool() const { return kind != Kind::none; }

    [[noreturn]] void raise() const {
        if (kind == Kind::read) throw ReadError(path, offset, error_number);
        if (kind == Kind::damage) throw DamagedStoreError(path, row, expert_id, problem);
        throw std::runtime_error(problem);
    }

    Kind kind = Kind::none;
    std::string path = {};
    int64_t offset = 0;
    int error_number = 0;
    std::optional<int64_t> row = {};
    std::optional<int64_t> expert_id = {};
    std::string problem = {};
};

}  // namespace mome
