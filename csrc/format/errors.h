// The errors that the C++ core reports. Each mirrors the class of the same name in mome_store/errors.py and carries the
// same facts; csrc/python turns one into the other. What a C++ program prints of one, `what()`, says the facts, too.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace mome {

namespace errors_detail {

inline std::string joined(const std::vector<int64_t>& values) {
    std::string text;
    for (const int64_t value : values)
        text += (text.empty() ? "" : ", ") + std::to_string(value);
    return text;
}

inline std::string named(const char* what, std::optional<int64_t> number) {
    return number ? std::string(", ") + what + " " + std::to_string(*number) : std::string();
}

}  // namespace errors_detail

// A shape, dtype, index or setting does not fit.
struct SchemaError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Bytes on disk are not what was committed.
struct DamagedStoreError : std::runtime_error {
    DamagedStoreError(std::string file_, std::optional<int64_t> row_, std::optional<int64_t> expert_id_,
                      std::string problem_)
        : std::runtime_error(file_ + errors_detail::named("row", row_) + errors_detail::named("expert", expert_id_) +
                             ": " + problem_),
          file(std::move(file_)),
          row(row_),
          expert_id(expert_id_),
          problem(std::move(problem_)) {}
    std::string file;
    std::optional<int64_t> row;
    std::optional<int64_t> expert_id;
    std::string problem;
};

// Ids that the snapshot does not hold.
struct UnknownIdError : std::runtime_error {
    explicit UnknownIdError(std::vector<int64_t> ids_, std::string kind_ = "expert")
        : std::runtime_error("no live " + kind_ + " with id " + errors_detail::joined(ids_)),
          ids(std::move(ids_)),
          kind(std::move(kind_)) {}
    std::vector<int64_t> ids;
    std::string kind;  // "expert" or "group"
};

// A batch needs more experts at once than there are slots.
struct CapacityError : std::runtime_error {
    CapacityError(int64_t needed_, int64_t slots_)
        : std::runtime_error("the batch needs " + std::to_string(needed_) + " experts at once but the cache has " +
                             std::to_string(slots_) + " slots"),
          needed(needed_),
          slots(slots_) {}
    int64_t needed;
    int64_t slots;
};

// The operating system refused a read.
struct ReadError : std::runtime_error {
    ReadError(std::string path_, int64_t offset_, int error_number_)
        : std::runtime_error(path_ + ": read at offset " + std::to_string(offset_) + ": " +
                             std::generic_category().message(error_number_)),
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

// A device is not there, can't be used or was lost: what its driver or its runtime library reported.
struct DeviceError : std::runtime_error {
    DeviceError(std::string device_, std::string problem_)
        : std::runtime_error(device_ + ": " + problem_), device(std::move(device_)), problem(std::move(problem_)) {}
    std::string device;
    std::string problem;
};

// The two that only csrc/catalog reports: there is no store, or it is in a format that this version does not know.
struct StoreNotFoundError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct FormatVersionError : std::runtime_error {
    FormatVersionError(std::string path_, std::string found_, int64_t supported_)
        : std::runtime_error(path_ + ": store format " + found_ + ", but this version of mome_store reads up to " +
                             std::to_string(supported_) + "; upgrade mome_store"),
          path(std::move(path_)),
          found(std::move(found_)),
          supported(supported_) {}
    std::string path;
    std::string found;  // as it is written in the store
    int64_t supported;
};

// Something was used after its end, or in a process that it does not belong to.
struct ClosedError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// What went wrong in another thread, as a value: an exception object must not be shared between threads. `raise` makes
// it one again.
struct Failure {
    enum class Kind { none, read, damage, device, other };

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
    static Failure of(const DeviceError& error) {
        return {.kind = Kind::device, .path = error.device, .problem = error.problem};
    }
    // Of the exception that is being handled.
    static Failure current() {
        try {
            throw;
        } catch (const ReadError& error) {
            return of(error);
        } catch (const DamagedStoreError& error) {
            return of(error);
        } catch (const DeviceError& error) {
            return of(error);
        } catch (const std::exception& error) {
            return {.kind = Kind::other, .problem = error.what()};
        }
    }

    explicit operator bool() const { return kind != Kind::none; }

    [[noreturn]] void raise() const {
        if (kind == Kind::read) throw ReadError(path, offset, error_number);
        if (kind == Kind::damage) throw DamagedStoreError(path, row, expert_id, problem);
        if (kind == Kind::device) throw DeviceError(path, problem);
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
