// read_store: for each line of input, the path of a store, one line of output: what the catalogue says, then, if
// it could be read, the checksum of all records that a lease holds. A typed error stands after "!", any other
// after "?"; either way the next line is served. tests/damage reads it.
#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "catalog/snapshot.h"
#include "format/crc32c.h"
#include "format/errors.h"
#include "runtime/expert_cache.h"

namespace {

std::string one_line(std::string text) {
    for (char& each : text) {
        if (each == '\n' || each == '\t' || each == '\r') each = ' ';
    }
    return text;
}

std::string attempt(const std::function<std::string()>& read) {
    try {
        return read();
    } catch (const mome::DamagedStoreError& error) {
        return one_line(std::string("!") + error.what());
    } catch (const mome::StoreNotFoundError& error) {
        return one_line(std::string("!") + error.what());
    } catch (const mome::FormatVersionError& error) {
        return one_line(std::string("!") + error.what());
    } catch (const mome::ReadError& error) {
        return one_line(std::string("!") + error.what());
    } catch (const std::exception& error) {
        return one_line(std::string("?") + error.what());
    }
}

std::vector<int64_t> experts_of(const mome::Snapshot& snapshot) {
    std::vector<int64_t> ids;
    for (const int64_t group : snapshot.group_ids()) {
        const auto experts = snapshot.group(group).expert_ids;
        ids.insert(ids.end(), experts.begin(), experts.end());
    }
    return ids;
}

std::string catalogue(const mome::Snapshot& snapshot) {
    std::ostringstream text;
    const mome::ExpertSchema& schema = snapshot.schema();
    text << snapshot.commit() << ' ' << snapshot.key_dim() << ' ' << snapshot.rows_per_shard() << ' ' << schema.crc
         << ' ' << schema.rank << ' ' << static_cast<int>(schema.dtype) << ' ' << schema.alpha;
    for (const auto& [name, shape] : schema.modules)
        text << ' ' << name << ' ' << shape.d_in << ' ' << shape.d_out;
    for (const int64_t id : snapshot.group_ids()) {
        const mome::Group group = snapshot.group(id);
        text << " group " << id << ' ' << static_cast<int>(group.mode) << ' ' << static_cast<int>(group.activation);
        for (const int64_t expert : group.expert_ids)
            text << ' ' << expert;
    }
    return one_line(text.str());
}

std::string leased(const mome::Snapshot& snapshot) {
    const std::vector<int64_t> ids = experts_of(snapshot);
    const std::vector<int64_t> counts{static_cast<int64_t>(ids.size())};
    const std::vector<float> weights(ids.size(), 1.0F);
    const auto cache = mome::make_mapped_cache(snapshot.open_shards());
    const auto lease = cache->acquire({.counts = counts, .ids = ids, .weights = weights});
    uint32_t crc = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
        const auto* record = reinterpret_cast<const std::byte*>(lease->base[i]);
        crc = mome::crc32c({record, static_cast<size_t>(snapshot.schema().layout.record_bytes)}, crc);
        crc = mome::crc32c(std::as_bytes(std::span(&lease->rank[i], 1)), crc);
    }
    return std::to_string(crc);
}

}  // namespace

int main() {
    for (std::string store; std::getline(std::cin, store);) {
        std::optional<mome::Snapshot> snapshot;
        std::string line = "catalogue=" + attempt([&] {
                               snapshot.emplace(mome::Snapshot::open(store));
                               return catalogue(*snapshot);
                           });
        if (snapshot) line += "\trecords=" + attempt([&] { return leased(*snapshot); });
        std::cout << line << std::endl;
    }
    return 0;
}
