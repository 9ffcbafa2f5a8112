// Opens the catalogue read-only and turns what SQLite finds into errors of mome_store.
#include "catalog/sqlite_access.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <new>
#include <optional>
#include <utility>

#include "format/errors.h"

namespace mome {
namespace {

constexpr int kBusyMilliseconds = 10'000;
constexpr int kAttempts = 5;

// What tells one state of a file from another.
struct FileState {
    uint64_t inode;
    int64_t bytes;
    int64_t seconds;
    int64_t nanoseconds;
    bool operator==(const FileState&) const = default;
};

struct CatalogFiles {
    FileState database;
    std::optional<FileState> wal;  // nullopt: not there
    bool shared;                   // `-shm` is there
    bool operator==(const CatalogFiles&) const = default;
};

std::optional<FileState> state_of(const std::string& path) {
    struct stat status{};
    if (stat(path.c_str(), &status) == 0) {
        return FileState{.inode = status.st_ino,
                         .bytes = status.st_size,
                         .seconds = status.st_mtim.tv_sec,
                         .nanoseconds = status.st_mtim.tv_nsec};
    }
    if (errno == ENOENT) return std::nullopt;
    throw ReadError(path, 0, errno);
}

CatalogFiles files_of(const std::filesystem::path& path) {
    const auto database = state_of(path.string());
    if (!database) throw DamagedStoreError(path.string(), std::nullopt, std::nullopt, "the catalogue is missing");
    return {.database = *database,
            .wal = state_of(path.string() + "-wal"),
            .shared = state_of(path.string() + "-shm").has_value()};
}

// The path as SQLite's URIs want it: RFC 3986's unreserved characters and slashes stay as they are.
std::string uri_of(const std::filesystem::path& path) {
    constexpr std::string_view kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
    constexpr std::string_view kHex = "0123456789ABCDEF";
    std::string uri = "file://";
    for (const char each : std::filesystem::absolute(path).string()) {
        const auto byte = static_cast<unsigned char>(each);
        if (kPlain.find(each) != std::string_view::npos) {
            uri += each;
        } else {
            uri += {'%', kHex[byte >> 4], kHex[byte & 15]};
        }
    }
    return uri;
}

}  // namespace

Statement::Statement(const Connection& connection, const char* sql) : connection_(&connection) {
    sqlite3_stmt* statement = nullptr;
    const int code = sqlite3_prepare_v2(connection.database_.get(), sql, -1, &statement, nullptr);
    statement_.reset(statement);
    if (code != SQLITE_OK) connection.fail(code);
}

void Statement::bind(int parameter, int64_t value) {
    if (const int code = sqlite3_bind_int64(statement_.get(), parameter, value); code != SQLITE_OK)
        connection_->fail(code);
}

void Statement::bind(int parameter, std::string_view text) {
    const int code =
        sqlite3_bind_text64(statement_.get(), parameter, text.data(), text.size(), SQLITE_STATIC, SQLITE_UTF8);
    if (code != SQLITE_OK) connection_->fail(code);
}

bool Statement::step() {
    const int code = sqlite3_step(statement_.get());
    if (code != SQLITE_ROW && code != SQLITE_DONE) connection_->fail(code);
    return code == SQLITE_ROW;
}

int64_t Statement::integer(int column) const {
    expect(column, SQLITE_INTEGER);
    return sqlite3_column_int64(statement_.get(), column);
}

double Statement::real(int column) const {
    expect(column, SQLITE_FLOAT);
    return sqlite3_column_double(statement_.get(), column);
}

std::string Statement::text(int column) const {
    expect(column, SQLITE_TEXT);
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
    if (text == nullptr) throw std::bad_alloc();
    return {text, static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column))};
}

void Statement::expect(int column, int type) const {
    if (sqlite3_column_type(statement_.get(), column) == type) return;
    throw DamagedStoreError(connection_->path_.string(), std::nullopt, std::nullopt,
                            std::string("a row is not what was written: ") +
                                sqlite3_column_name(statement_.get(), column) + " is of the wrong type");
}

Connection Connection::in_memory() {
    return {":memory:", ":memory:", nullptr};
}

Connection::Connection(std::filesystem::path path, const std::string& uri, const char* vfs) : path_(std::move(path)) {
    sqlite3* database = nullptr;
    const int code = sqlite3_open_v2(uri.c_str(), &database, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, vfs);
    database_.reset(database);
    if (code != SQLITE_OK) fail(code);
    sqlite3_extended_result_codes(database, 1);
    sqlite3_busy_timeout(database, kBusyMilliseconds);
}

void Connection::execute(const char* sql) const {
    Statement statement(*this, sql);
    while (statement.step()) {
    }
}

void Connection::keep_wal() const {
    sqlite3_db_config(database_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
}

void Connection::fail(int code) const {
    switch (code & 0xFF) {
        case SQLITE_NOMEM:
            throw std::bad_alloc();
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
            throw ReadError(path_.string(), 0, EBUSY);
        case SQLITE_READONLY:
        case SQLITE_PERM:
            throw ReadError(path_.string(), 0, EACCES);
        case SQLITE_CANTOPEN: {
            const int reason = database_ == nullptr ? 0 : sqlite3_system_errno(database_.get());
            throw ReadError(path_.string(), 0, reason == 0 ? EACCES : reason);
        }
        case SQLITE_IOERR:
            throw ReadError(path_.string(), 0, EIO);
        default:
            throw DamagedStoreError(path_.string(), std::nullopt, std::nullopt,
                                    std::string("the catalogue can't be read: ") + sqlite3_errmsg(database_.get()));
    }
}

void read_catalog(const std::filesystem::path& path, const std::function<void(const Connection&)>& query) {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        const CatalogFiles before = files_of(path);
        std::exception_ptr error;
        try {
            const bool dead_wal = !before.shared && before.wal;
            const char* how = before.shared || before.wal ? "?mode=ro" : "?mode=ro&immutable=1";
            const Connection connection(path, uri_of(path) + how, dead_wal ? "unix-none" : nullptr);
            if (dead_wal) {
                connection.execute("PRAGMA locking_mode=EXCLUSIVE");  // the WAL's index in private memory
                connection.keep_wal();
            }
            connection.execute("BEGIN");
            query(connection);
            if (before.shared) return;
        } catch (...) {
            error = std::current_exception();
        }
        if (files_of(path) != before) continue;
        if (error) std::rethrow_exception(error);
        return;
    }
    throw ReadError(path.string(), 0, EAGAIN);
}

}  // namespace mome
