// Carries a plan and a communicator from the forward to the backward of an autograd Function.
#pragma once
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include "dist/communicator.hpp"
#include "graph/shard.hpp"

namespace graphlora {

/// References only: plan and communicator must outlive the backward.
struct PlanContext : torch::CustomClassHolder {
  PlanContext(const GraphPlan& p, Communicator* w) : plan(p), world(w) {}
  const GraphPlan& plan;
  Communicator* world;

  static void save(torch::autograd::AutogradContext* context, const GraphPlan& plan,
                   Communicator* world) {
    context->saved_data["plan"] =
        c10::IValue::make_capsule(c10::make_intrusive<PlanContext>(plan, world));
  }
  static c10::intrusive_ptr<PlanContext> load(torch::autograd::AutogradContext* context) {
    return c10::static_intrusive_pointer_cast<PlanContext>(
        context->saved_data.at("plan").toCapsule());
  }
};

}  // namespace graphlora
