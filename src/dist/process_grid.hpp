// World of P = D x T ranks, tensor-fastest: rank = d*T + t.
#pragma once
#include <memory>

#include "dist/communicator.hpp"
#include "dist/host_name.hpp"

namespace graphlora {

/// The three axes of communication. Graph axis = world: every rank owns one METIS part.
class ProcessGrid {
 public:
  /// Collective. Throws ConfigError if T does not divide the world size, or if the ranks of a
  /// replica are not on one host: their all-reduces, four a layer, need its memory or NVLink.
  ProcessGrid(std::shared_ptr<Communicator> world, int tensor_parallel,
              const std::string& host = host_name());

  Communicator& world() const { return *world_; }
  Communicator& data() const { return *data_; }      ///< same t in every replica
  Communicator& tensor() const { return *tensor_; }  ///< ranks of one replica
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  int replicas() const { return data_->size(); }
  int tensor_parallel() const { return tensor_->size(); }
  int replica() const { return data_->rank(); }
  int tensor_rank() const { return tensor_->rank(); }

 private:
  std::shared_ptr<Communicator> world_;
  std::unique_ptr<Communicator> data_, tensor_;
};

}  // namespace graphlora
