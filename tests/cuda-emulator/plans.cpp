// cuDNN's graphs, as far as parityd makes them: a convolution with what follows it, described as a graph, for which engines are offered and planned with.
//
// What is refused, and with which status, was asked of cuDNN 9.28 where that needs no GPU, which is all but execution. Three things are refused that it lets pass:
// what NVIDIA's header calls required or an error and the library does not look for, one number for two tensors, and descriptors of the wrong kind, by which it
// crashes. It has engines for more: convolutions alone, in groups or flipped, and pictures with gaps.
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "convolution.h"

using namespace emulator;

namespace {

// NVIDIA's numbers: of descriptors, of values, and of attributes.
enum {
    POINTWISE = 0,
    CONVOLUTION = 1,
    ENGINE = 2,
    CONFIG = 3,
    HEURISTICS = 4,
    PLAN = 5,
    FORWARD = 10,
    FOLLOWING = 13,
    GRAPH = 15,
    PACK = 16,
    TENSOR = 17
};
enum {
    HANDLE = 0,
    DATA_TYPE = 1,
    BOOLEAN = 2,
    INT64 = 3,
    FLOAT = 4,
    DOUBLE = 5,
    POINTER = 6,
    CONVOLUTION_MODE = 7,
    HEURISTICS_MODE = 8,
    NUMERICAL_NOTE = 11,
    POINTWISE_MODE = 14,
    DESCRIPTOR = 15,
    BEHAVIOUR_NOTE = 19
};
enum { MODE = 0, PRECISION = 1 };
enum { SUMS = 100, DIRECTION = 101, DILATIONS = 102, STEPS = 103, POST_PADDINGS = 104, PRE_PADDINGS = 105, SPATIAL = 106 };
enum { HEURISTICS_KIND = 200, OF_GRAPH = 201, RESULTS = 202 };
enum { ENGINE_OF_CONFIG = 300 };
enum { PLAN_HANDLE = 400, PLAN_CONFIG = 401, WORKSPACE_BYTES = 402 };
enum { ALPHA = 700, BETA = 701, DESCRIPTION = 702, W = 703, X = 704, Y = 705 };
enum { FOLLOWING_DESCRIPTION = 750, FOLLOWING_X = 751, FOLLOWING_B = 752, FOLLOWING_Y = 753 };
enum { GRAPH_HANDLE = 800, OPERATIONS = 801 };
enum { ALIGNMENT = 900, VALUES = 901, SIDES = 902, STRIDES = 903, ID = 906, IS_VIRTUAL = 907 };
enum { IDS = 1000, POINTERS = 1001, WORKSPACE = 1003 };
enum { INDEX = 1301, NOTES = 1303, BEHAVIOUR = 1305 };

// And of what attributes say.
enum { SINGLE = 0, HALF = 2 };
enum { CORRELATION = 1 };
enum { ADD = 0, RELU = 100 };
enum { FALLBACK = 2 };
enum { OF_TENSOR_CORES = 0, NOT_DETERMINISTIC = 4, OF_WINOGRAD = 5 };
enum { IS_COMPILED_HERE = 0, MAKES_GRAPHS = 3 };

// Whether an attribute may be set, must be, or is there to be read alone.
enum Need { MAY, MUST, TOLD };

struct Attribute {
    int name, type, most;
    Need need;
    // The kind that descriptors are of.
    int of = -1;
};

constexpr int MANY = 64, SIDES_MAX = 8;

const std::map<int, std::vector<Attribute>> KINDS = {
    {POINTWISE, {{MODE, POINTWISE_MODE, 1, MUST}, {PRECISION, DATA_TYPE, 1, MUST}}},
    {CONVOLUTION,
     {{SUMS, DATA_TYPE, 1, MUST},
      {DIRECTION, CONVOLUTION_MODE, 1, MUST},
      {DILATIONS, INT64, SIDES_MAX, MUST},
      {STEPS, INT64, SIDES_MAX, MUST},
      {POST_PADDINGS, INT64, SIDES_MAX, MUST},
      {PRE_PADDINGS, INT64, SIDES_MAX, MUST},
      {SPATIAL, INT64, 1, MUST}}},
    {ENGINE, {{INDEX, INT64, 1, TOLD}, {NOTES, NUMERICAL_NOTE, MANY, TOLD}, {BEHAVIOUR, BEHAVIOUR_NOTE, MANY, TOLD}}},
    {CONFIG, {{ENGINE_OF_CONFIG, DESCRIPTOR, 1, TOLD, ENGINE}}},
    {HEURISTICS,
     {{HEURISTICS_KIND, HEURISTICS_MODE, 1, MUST}, {OF_GRAPH, DESCRIPTOR, 1, MUST, GRAPH}, {RESULTS, DESCRIPTOR, MANY, TOLD, CONFIG}}},
    {PLAN, {{PLAN_HANDLE, HANDLE, 1, MUST}, {PLAN_CONFIG, DESCRIPTOR, 1, MUST, CONFIG}, {WORKSPACE_BYTES, INT64, 1, TOLD}}},
    {FORWARD,
     {{ALPHA, FLOAT, 1, MUST},
      {BETA, FLOAT, 1, MUST},
      {DESCRIPTION, DESCRIPTOR, 1, MUST, CONVOLUTION},
      {W, DESCRIPTOR, 1, MUST, TENSOR},
      {X, DESCRIPTOR, 1, MUST, TENSOR},
      {Y, DESCRIPTOR, 1, MUST, TENSOR}}},
    {FOLLOWING,
     {{FOLLOWING_DESCRIPTION, DESCRIPTOR, 1, MUST, POINTWISE},
      {FOLLOWING_X, DESCRIPTOR, 1, MUST, TENSOR},
      {FOLLOWING_B, DESCRIPTOR, 1, MAY, TENSOR},
      {FOLLOWING_Y, DESCRIPTOR, 1, MUST, TENSOR}}},
    // Of operations, -1: they are of several kinds.
    {GRAPH, {{GRAPH_HANDLE, HANDLE, 1, MUST}, {OPERATIONS, DESCRIPTOR, MANY, MUST}}},
    {PACK, {{IDS, INT64, MANY, MUST}, {POINTERS, POINTER, MANY, MUST}, {WORKSPACE, POINTER, 1, MAY}}},
    {TENSOR,
     {{ALIGNMENT, INT64, 1, MUST},
      {VALUES, DATA_TYPE, 1, MUST},
      {SIDES, INT64, SIDES_MAX, MUST},
      {STRIDES, INT64, SIDES_MAX, MUST},
      {ID, INT64, 1, MUST},
      {IS_VIRTUAL, BOOLEAN, 1, MAY}}},
};

size_t bytes_of(int type)
{
    switch (type) {
    case BOOLEAN: return 1;
    case HANDLE: case INT64: case DOUBLE: case POINTER: return 8;
    default: return 4;
    }
}

struct Engine;
struct Stage;
struct Descriptor;

struct Given {
    int type;
    long count = 0;
    std::vector<char> bytes;
    std::vector<std::shared_ptr<const Descriptor>> parts;
};

// What is set is copied, as the library does: what becomes of a descriptor later changes nothing in what it was given to.
struct Descriptor {
    int kind;
    bool is_finalized = false;
    std::map<int, Given> given = {};
    // Of graphs and what comes of them: the GPU, and what is asked for, if that is understood.
    Device *device = nullptr;
    std::shared_ptr<const Stage> stage = nullptr;
    // Of engines and what comes of them.
    const Engine *engine = nullptr;
    size_t workspace = 0;

    bool has(int name) const { return given.count(name); }

    template <class T> std::vector<T> all(int name) const
    {
        auto found = given.find(name);
        if (found == given.end())
            return {};
        std::vector<T> values(found->second.count);
        std::memcpy(values.data(), found->second.bytes.data(), values.size() * sizeof(T));
        return values;
    }

    template <class T> T one(int name) const { return all<T>(name).at(0); }

    double number(int name) const { return given.at(name).type == DOUBLE ? one<double>(name) : one<float>(name); }

    const std::vector<std::shared_ptr<const Descriptor>> &parts(int name) const { return given.at(name).parts; }

    const Descriptor &part(int name) const { return *parts(name)[0]; }

    template <class T> void tell(int name, int type, const std::vector<T> &values)
    {
        auto *bytes = reinterpret_cast<const char *>(values.data());
        given[name] = {type, long(values.size()), {bytes, bytes + values.size() * sizeof(T)}, {}};
    }

    void tell(int name, std::vector<std::shared_ptr<const Descriptor>> values) { given[name] = {DESCRIPTOR, long(values.size()), {}, std::move(values)}; }
};

using Part = std::shared_ptr<const Descriptor>;

const Attribute *attribute_of(const Descriptor &descriptor, int name)
{
    for (const Attribute &attribute : KINDS.at(descriptor.kind))
        if (attribute.name == name)
            return &attribute;
    return nullptr;
}

// What it says of a value of another type than the attribute's.
int wrong_type(const Descriptor &descriptor, const Attribute &attribute)
{
    if (attribute.type == HANDLE)
        return NOT_INITIALIZED;
    switch (descriptor.kind) {
    case POINTWISE: case FORWARD: case FOLLOWING: return BAD_PARAMETER;
    case PACK: return NOT_SUPPORTED;
    default: return WRONG_TYPE;
    }
}

bool is_of_type(const Attribute &attribute, int type) { return type == attribute.type || (attribute.type == FLOAT && type == DOUBLE); }

bool is_operation(const Descriptor &descriptor) { return descriptor.kind == FORWARD || descriptor.kind == FOLLOWING; }

int set_parts(Descriptor &descriptor, const Attribute &attribute, long count, Descriptor *const *from)
{
    std::vector<Part> parts;
    for (long index = 0; index < count; index++) {
        const Descriptor *part = from[index];
        if (!part || (attribute.name == OPERATIONS ? !is_operation(*part) : part->kind != attribute.of))
            return BAD_PARAMETER;
        // Others are looked at when all is there.
        if (attribute.name == OPERATIONS && !part->is_finalized)
            return NOT_FINALIZED;
        parts.push_back(std::make_shared<Descriptor>(*part));
    }
    descriptor.tell(attribute.name, std::move(parts));
    return WELL;
}

int set(Descriptor &descriptor, int name, int type, long count, const void *from)
{
    const Attribute *attribute = attribute_of(descriptor, name);
    if (descriptor.is_finalized || !attribute)
        return BAD_PARAMETER;
    if (attribute->need == TOLD)
        return descriptor.kind == PLAN ? NOT_SUPPORTED : BAD_PARAMETER;
    if (!is_of_type(*attribute, type))
        return wrong_type(descriptor, *attribute);
    if (!from || count < 1 || count > attribute->most)
        return BAD_PARAMETER;
    if (type == DESCRIPTOR)
        return set_parts(descriptor, *attribute, count, static_cast<Descriptor *const *>(from));
    auto *bytes = static_cast<const char *>(from);
    descriptor.given[name] = {type, count, {bytes, bytes + count * bytes_of(type)}, {}};
    return WELL;
}

// Into descriptors of the caller's, up to the first that it does not fit into.
long fill(const std::vector<Part> &parts, long room, Descriptor *const *to)
{
    long filled = 0;
    for (; filled < room && filled < long(parts.size()); filled++) {
        Descriptor *place = to[filled];
        if (!place || place->kind != parts[filled]->kind || place->is_finalized)
            break;
        *place = *parts[filled];
    }
    return filled;
}

int get_parts(const Descriptor &descriptor, const Attribute &attribute, long room, int64_t *count, Descriptor *const *to)
{
    if (attribute.need != TOLD || (attribute.most == 1 && room != 1))
        return NOT_SUPPORTED;
    const std::vector<Part> &parts = descriptor.parts(attribute.name);
    // The number of all of them is told who has no place for any.
    long filled = to ? fill(parts, room, to) : long(parts.size());
    if (attribute.most == 1 && !filled)
        return BAD_PARAMETER;
    if (count)
        *count = filled;
    return WELL;
}

int get(const Descriptor &descriptor, int name, int type, long room, int64_t *count, void *to)
{
    if (!descriptor.is_finalized)
        return NOT_INITIALIZED;
    const Attribute *attribute = attribute_of(descriptor, name);
    if (!attribute || room < 0)
        return BAD_PARAMETER;
    if (!is_of_type(*attribute, type))
        return WRONG_TYPE;
    if (type == DESCRIPTOR)
        return get_parts(descriptor, *attribute, room, count, static_cast<Descriptor *const *>(to));
    if (attribute->need == TOLD && attribute->most == 1 && room != 1)
        return BAD_PARAMETER;
    auto found = descriptor.given.find(name);
    long there = found == descriptor.given.end() ? 0 : found->second.count, told = room ? std::min(there, room) : there;
    if (to && room && told)
        std::memcpy(to, found->second.bytes.data(), told * bytes_of(type));
    if (count)
        *count = told;
    return WELL;
}

// Of types that are not known here, nothing is said before the graph is looked at.
long size_of_value(int type) { return type == SINGLE ? 4 : type == HALF || type == BFLOAT16 ? 2 : 1; }

int finish_tensor(Descriptor &tensor)
{
    auto sides = tensor.all<int64_t>(SIDES), strides = tensor.all<int64_t>(STRIDES);
    int64_t alignment = tensor.one<int64_t>(ALIGNMENT);
    if (sides.size() != strides.size() || alignment < 1 || alignment % size_of_value(tensor.one<int>(VALUES)))
        return BAD_PARAMETER;
    auto is_positive = [](int64_t number) { return number > 0; };
    bool are_positive = std::all_of(sides.begin(), sides.end(), is_positive) && std::all_of(strides.begin(), strides.end(), is_positive);
    return are_positive ? WELL : BAD_PARAMETER;
}

int finish_convolution(Descriptor &convolution)
{
    size_t count = convolution.one<int64_t>(SPATIAL);
    for (auto [name, least] : {std::pair(DILATIONS, 1), std::pair(STEPS, 1), std::pair(POST_PADDINGS, 0), std::pair(PRE_PADDINGS, 0)}) {
        auto numbers = convolution.all<int64_t>(name);
        if (numbers.size() != count || *std::min_element(numbers.begin(), numbers.end()) < least)
            return BAD_PARAMETER;
    }
    return WELL;
}

// Whether these are the sides that such a convolution makes.
int finish_forward(Descriptor &operation)
{
    const Descriptor &how = operation.part(DESCRIPTION);
    auto x = operation.part(X).all<int64_t>(SIDES), w = operation.part(W).all<int64_t>(SIDES), y = operation.part(Y).all<int64_t>(SIDES);
    auto before = how.all<int64_t>(PRE_PADDINGS), behind = how.all<int64_t>(POST_PADDINGS), steps = how.all<int64_t>(STEPS);
    auto dilations = how.all<int64_t>(DILATIONS);
    if (x.size() != steps.size() + 2 || w.size() != x.size() || y.size() != x.size())
        return BAD_PARAMETER;
    for (size_t side = 0; side < steps.size(); side++) {
        int64_t reach = dilations[side] * (w[2 + side] - 1) + 1, room = x[2 + side] + before[side] + behind[side] - reach;
        if (room < 0 || y[2 + side] != room / steps[side] + 1)
            return BAD_PARAMETER;
    }
    return y[0] == x[0] && y[1] == w[0] && x[1] % w[1] == 0 ? WELL : BAD_PARAMETER;
}

// Which sides go together is seen in the graph.
int finish_following(Descriptor &operation)
{
    bool is_binary = operation.part(FOLLOWING_DESCRIPTION).one<int>(MODE) == ADD;
    return is_binary && !operation.has(FOLLOWING_B) ? BAD_PARAMETER : WELL;
}

bool is_virtual(const Descriptor &tensor) { return tensor.has(IS_VIRTUAL) && tensor.one<char>(IS_VIRTUAL); }

int64_t id_of(const Descriptor &tensor) { return tensor.one<int64_t>(ID); }

const Descriptor &written_by(const Descriptor &operation) { return operation.part(operation.kind == FORWARD ? int(Y) : int(FOLLOWING_Y)); }

std::vector<const Descriptor *> read_by(const Descriptor &operation)
{
    if (operation.kind == FORWARD)
        return {&operation.part(X), &operation.part(W)};
    std::vector<const Descriptor *> read = {&operation.part(FOLLOWING_X)};
    if (operation.has(FOLLOWING_B))
        read.push_back(&operation.part(FOLLOWING_B));
    return read;
}

bool are_alike(const Descriptor &one, const Descriptor &other)
{
    return one.all<int64_t>(SIDES) == other.all<int64_t>(SIDES) && one.all<int64_t>(STRIDES) == other.all<int64_t>(STRIDES) &&
           one.all<int>(VALUES) == other.all<int>(VALUES) && is_virtual(one) == is_virtual(other);
}

// Whether each number means one tensor.
bool are_told_apart(const std::vector<Part> &operations)
{
    std::map<int64_t, const Descriptor *> known;
    for (const Part &operation : operations) {
        auto tensors = read_by(*operation);
        tensors.push_back(&written_by(*operation));
        for (const Descriptor *tensor : tensors)
            if (!are_alike(*known.emplace(id_of(*tensor), tensor).first->second, *tensor))
                return false;
    }
    return true;
}

// In the order in which they can be done; nothing where one waits for itself, or two write the same.
std::vector<Part> in_order(std::vector<Part> operations)
{
    std::vector<Part> ordered;
    while (!operations.empty()) {
        std::multiset<int64_t> to_come;
        for (const Part &operation : operations)
            to_come.insert(id_of(written_by(*operation)));
        auto is_ready = [&](const Part &operation) {
            auto read = read_by(*operation);
            bool waits = std::any_of(read.begin(), read.end(), [&](const Descriptor *tensor) { return to_come.count(id_of(*tensor)); });
            return !waits && to_come.count(id_of(written_by(*operation))) == 1;
        };
        auto next = std::find_if(operations.begin(), operations.end(), is_ready);
        if (next == operations.end())
            return {};
        ordered.push_back(*next);
        operations.erase(next);
    }
    return ordered;
}

// A tensor with memory of its own, and how it lies there.
struct Place {
    int64_t id = 0, alignment = 0;
    Tensor picture = {};
    // Both, where sides of one leave no difference.
    bool is_first = false, is_last = false;
};

// What engines do: a convolution, to which a tensor may be added, a bias always is, and whose sum may be rectified.
struct Stage {
    Place x, w, bias, added, y;
    Convolution how;
    bool is_of_single = false;

    std::vector<const Place *> places() const
    {
        std::vector<const Place *> all = {&x, &w, &bias, &y};
        if (how.adds)
            all.push_back(&added);
        return all;
    }
};

// Whether its values lie without gaps, sides in such an order, the last one's next to each other.
bool lies(const std::vector<int64_t> &sides, const std::vector<int64_t> &strides, const int (&order)[4])
{
    int64_t expected = 1;
    for (int at = 3; at >= 0; at--) {
        if (sides[order[at]] > 1 && strides[order[at]] != expected)
            return false;
        expected *= sides[order[at]];
    }
    return true;
}

// False where it is none, or of values that are not known here.
bool read_place(const Descriptor &tensor, Place &place)
{
    int type = tensor.one<int>(VALUES);
    auto sides = tensor.all<int64_t>(SIDES), strides = tensor.all<int64_t>(STRIDES);
    if (is_virtual(tensor) || sides.size() != 4 || (type != SINGLE && type != HALF && type != BFLOAT16))
        return false;
    place = {id_of(tensor), tensor.one<int64_t>(ALIGNMENT), {kind_of(type, BFLOAT16), {sides[0], sides[1], sides[2], sides[3]}}};
    place.is_first = lies(sides, strides, {0, 1, 2, 3});
    place.is_last = lies(sides, strides, {0, 2, 3, 1});
    place.picture.is_last = !place.is_first;
    return place.is_first || place.is_last;
}

// One value for each channel of what is written.
bool is_bias_of(const Tensor &bias, const Tensor &y) { return bias.sides[1] == y.sides[1] && bias.count() == y.sides[1]; }

bool read_convolution(const Descriptor &operation, Stage &stage)
{
    const Descriptor &how = operation.part(DESCRIPTION);
    bool is_plain = operation.number(ALPHA) == 1 && operation.number(BETA) == 0;
    if (!is_plain || how.one<int>(SUMS) != SINGLE || how.one<int>(DIRECTION) != CORRELATION)
        return false;
    if (!read_place(operation.part(X), stage.x) || !read_place(operation.part(W), stage.w))
        return false;
    for (int side = 0; side < 2; side++) {
        stage.how.padding[side] = how.all<int64_t>(PRE_PADDINGS)[side];
        stage.how.stride[side] = how.all<int64_t>(STEPS)[side];
        stage.how.dilation[side] = how.all<int64_t>(DILATIONS)[side];
    }
    // No groups.
    return stage.x.picture.sides[1] == stage.w.picture.sides[1];
}

// What follows the convolution, each of what the one before it made, which has no memory and is of single precision.
bool read_following(const std::vector<Part> &operations, Stage &stage)
{
    std::vector<const Descriptor *> added;
    const Descriptor *made = &written_by(*operations[0]);
    auto sides = made->all<int64_t>(SIDES);
    for (size_t index = 1; index < operations.size(); index++) {
        const Descriptor &operation = *operations[index], &how = operation.part(FOLLOWING_DESCRIPTION);
        int mode = how.one<int>(MODE);
        bool is_next = id_of(operation.part(FOLLOWING_X)) == id_of(*made) && is_virtual(*made) && made->one<int>(VALUES) == SINGLE;
        if (!is_next || how.one<int>(PRECISION) != SINGLE || (mode != ADD && mode != RELU) || stage.how.rectifies)
            return false;
        stage.how.rectifies = mode == RELU;
        if (mode == ADD)
            added.push_back(&operation.part(FOLLOWING_B));
        made = &written_by(operation);
        if (made->all<int64_t>(SIDES) != sides)
            return false;
    }
    stage.how.adds = added.size() == 2;
    if (added.empty() || added.size() > 2 || !read_place(*added.back(), stage.bias) || !read_place(*made, stage.y))
        return false;
    if (!is_bias_of(stage.bias.picture, stage.y.picture))
        return false;
    return !stage.how.adds || (read_place(*added[0], stage.added) && added[0]->all<int64_t>(SIDES) == sides);
}

// Whether pictures all lie in one way, which is the stage's then. Filters may lie in the other.
bool settle_order(Stage &stage)
{
    auto alike = [&](bool Place::*way) { return stage.x.*way && stage.y.*way && (!stage.how.adds || stage.added.*way); };
    bool is_last = !alike(&Place::is_first);
    if (is_last && !alike(&Place::is_last))
        return false;
    stage.x.picture.is_last = stage.y.picture.is_last = stage.added.picture.is_last = is_last;
    return true;
}

// What the operations are, if engines know it.
std::shared_ptr<const Stage> understood(const std::vector<Part> &operations)
{
    Stage stage = {};
    for (size_t index = 0; index < operations.size(); index++)
        if (operations[index]->kind != (index ? FOLLOWING : FORWARD))
            return nullptr;
    if (!read_convolution(*operations[0], stage) || !read_following(operations, stage) || !settle_order(stage))
        return nullptr;
    for (const Place *place : stage.places())
        if (place->picture.kind != stage.x.picture.kind)
            return nullptr;
    stage.is_of_single = stage.x.picture.kind == Kind::F32;
    stage.how.x = stage.x.picture;
    stage.how.w = stage.w.picture;
    stage.how.bias = stage.bias.picture;
    stage.how.y = stage.y.picture;
    return std::make_shared<const Stage>(stage);
}

int finish_graph(Descriptor &graph)
{
    auto operations = in_order(graph.parts(OPERATIONS));
    if (operations.empty() || !are_told_apart(operations))
        return BAD_PARAMETER;
    graph.device = graph.one<Handle *>(GRAPH_HANDLE)->device;
    graph.stage = understood(operations);
    return WELL;
}

struct Engine {
    int64_t index;
    std::vector<int> notes, behaviour;
    // Bytes that it works in at least.
    size_t least;
};

const Engine WINOGRAD = {6, {OF_WINOGRAD}, {}, 8 << 20};
// For which there is a plan, and no kernel.
const Engine UNABLE = {4, {}, {}, 0};
const Engine TENSOR_CORES = {41, {OF_TENSOR_CORES}, {MAKES_GRAPHS}, 2 << 20};
const Engine WITHOUT_TENSOR_CORES = {11, {}, {}, 6 << 20};
const Engine WITHOUT_ORDER = {13, {NOT_DETERMINISTIC}, {IS_COMPILED_HERE}, 0};
const Engine LAST_RESORT = {0, {}, {}, 0};

// The fastest first; one comes twice, as they do that have several ways to go about it.
const std::vector<const Engine *> GUESSED = {&WINOGRAD, &UNABLE, &TENSOR_CORES, &TENSOR_CORES, &WITHOUT_TENSOR_CORES, &WITHOUT_ORDER};

// What cores of those read 16 bytes at once of.
constexpr int64_t AT_ONCE = 16;

bool is_guessed(const Engine &engine, const Convolution &how)
{
    if (&engine != &WINOGRAD)
        return true;
    bool is_square = how.w.sides[2] == 3 && how.w.sides[3] == 3, is_plain = how.stride[0] == 1 && how.stride[1] == 1 && how.dilation[0] == 1 && how.dilation[1] == 1;
    return !how.x.is_last && is_square && is_plain;
}

bool has_plan(const Engine &engine, const Stage &stage)
{
    auto places = stage.places();
    if (&engine == &TENSOR_CORES)
        return std::all_of(places.begin(), places.end(), [](const Place *place) { return place->alignment % AT_ONCE == 0; });
    return &engine != &WINOGRAD || !stage.how.adds;
}

// The more, the fewer rows there are, and so much that what is there for large ones may not do.
size_t room_of(const Engine &engine, long rows) { return engine.least + engine.least / rows / 4 * 4; }

Part config_of(const Engine &engine, const Descriptor &graph, size_t workspace)
{
    auto described = std::make_shared<Descriptor>(Descriptor{ENGINE, true});
    described->tell<int64_t>(INDEX, INT64, {engine.index});
    described->tell(NOTES, NUMERICAL_NOTE, engine.notes);
    described->tell(BEHAVIOUR, BEHAVIOUR_NOTE, engine.behaviour);
    auto config = std::make_shared<Descriptor>(Descriptor{CONFIG, true});
    config->tell(ENGINE_OF_CONFIG, std::vector<Part>{described});
    config->device = graph.device;
    config->stage = graph.stage;
    config->engine = &engine;
    config->workspace = workspace;
    return config;
}

// Whether it is supported at all; `cudnn=0`: nothing is.
bool is_supported(const Device &device) { return device.told("cudnn", 1) != 0; }

int finish_heuristics(Descriptor &heuristics)
{
    const Descriptor &graph = heuristics.part(OF_GRAPH);
    std::vector<Part> configs;
    if (graph.stage && is_supported(*graph.device)) {
        // `guesses=0`: each would take more than anybody wants to give.
        bool are_modest = graph.device->told("guesses", 1);
        long rows = graph.stage->how.x.sides[0];
        if (heuristics.one<int>(HEURISTICS_KIND) == FALLBACK)
            configs.push_back(config_of(LAST_RESORT, graph, 0));
        else
            for (const Engine *engine : GUESSED)
                if (is_guessed(*engine, graph.stage->how))
                    configs.push_back(config_of(*engine, graph, are_modest ? room_of(*engine, rows) : size_t(1) << 40));
    }
    heuristics.tell(RESULTS, std::move(configs));
    return WELL;
}

int finish_plan(Descriptor &plan)
{
    const Descriptor &config = plan.part(PLAN_CONFIG);
    if (plan.one<Handle *>(PLAN_HANDLE)->device != config.device)
        return BAD_PARAMETER;
    // `channels_last=0`: not in that order.
    bool is_known = !config.stage->how.x.is_last || config.device->told("channels_last", 1);
    if (!is_supported(*config.device) || !is_known || !has_plan(*config.engine, *config.stage))
        return NOT_SUPPORTED;
    plan.device = config.device;
    plan.stage = config.stage;
    plan.engine = config.engine;
    plan.workspace = config.workspace;
    plan.tell<int64_t>(WORKSPACE_BYTES, INT64, {int64_t(plan.workspace)});
    return WELL;
}

int finish_pack(Descriptor &pack) { return pack.given.at(IDS).count == pack.given.at(POINTERS).count ? WELL : BAD_PARAMETER; }

// Whether all that it needs is there, and finalized.
int look_at_parts(const Descriptor &descriptor)
{
    for (const Attribute &attribute : KINDS.at(descriptor.kind)) {
        auto found = descriptor.given.find(attribute.name);
        if (found == descriptor.given.end()) {
            if (attribute.need == MUST)
                return BAD_PARAMETER;
            continue;
        }
        for (const Part &part : found->second.parts)
            // The library says the one of heuristics and the other of operations.
            if (!part->is_finalized)
                return descriptor.kind == HEURISTICS ? NOT_FINALIZED : BAD_PARAMETER;
    }
    return WELL;
}

int finish(Descriptor &descriptor)
{
    switch (descriptor.kind) {
    case POINTWISE: return WELL;
    case CONVOLUTION: return finish_convolution(descriptor);
    case HEURISTICS: return finish_heuristics(descriptor);
    case PLAN: return finish_plan(descriptor);
    case FORWARD: return finish_forward(descriptor);
    case FOLLOWING: return finish_following(descriptor);
    case GRAPH: return finish_graph(descriptor);
    case PACK: return finish_pack(descriptor);
    case TENSOR: return finish_tensor(descriptor);
    // Engines and their configurations come from heuristics, finalized.
    default: return BAD_PARAMETER;
    }
}

// Where the tensor of that number is; how it is refused, if it is.
int find(const Descriptor &pack, const Place &place, void *&at)
{
    auto ids = pack.all<int64_t>(IDS);
    auto found = std::find(ids.begin(), ids.end(), place.id);
    if (found == ids.end())
        return BAD_PARAMETER;
    at = pack.all<void *>(POINTERS)[found - ids.begin()];
    if (!at)
        return NULL_POINTER;
    return is_aligned(at, place.alignment) ? WELL : MISALIGNED_POINTER;
}

int find_all(const Descriptor &pack, const Stage &stage, std::map<const Place *, void *> &at)
{
    auto ids = pack.all<int64_t>(IDS);
    if (std::set<int64_t>(ids.begin(), ids.end()).size() != ids.size())
        return DUPLICATED_ENTRIES;
    for (const Place *place : stage.places())
        if (int refused = find(pack, *place, at[place]))
            return refused;
    return at[&stage.x] == at[&stage.y] ? BAD_PARAMETER : WELL;
}

int find_workspace(const Descriptor &pack, const Descriptor &plan, void *&at)
{
    at = pack.has(WORKSPACE) ? pack.one<void *>(WORKSPACE) : nullptr;
    if (plan.workspace && !at)
        return NULL_POINTER;
    return plan.engine == &TENSOR_CORES && !is_aligned(at, AT_ONCE) ? MISALIGNED_POINTER : WELL;
}

} // namespace

EXPORT int cudnnBackendCreateDescriptor(int kind, Descriptor **descriptor)
{
    called(__func__);
    if (!KINDS.count(kind))
        return NOT_SUPPORTED;
    *descriptor = new Descriptor{kind};
    return WELL;
}

EXPORT int cudnnBackendDestroyDescriptor(Descriptor *descriptor)
{
    called(__func__);
    if (!descriptor)
        return NULL_POINTER;
    delete descriptor;
    return WELL;
}

EXPORT int cudnnBackendSetAttribute(Descriptor *descriptor, int name, int type, int64_t count, const void *from)
{
    called(__func__);
    return descriptor ? set(*descriptor, name, type, count, from) : NULL_POINTER;
}

EXPORT int cudnnBackendGetAttribute(const Descriptor *descriptor, int name, int type, int64_t room, int64_t *count, void *to)
{
    called(__func__);
    return descriptor ? get(*descriptor, name, type, room, count, to) : NULL_POINTER;
}

EXPORT int cudnnBackendFinalize(Descriptor *descriptor)
{
    called(__func__);
    if (!descriptor)
        return NULL_POINTER;
    if (descriptor->is_finalized)
        return BAD_PARAMETER;
    if (int refused = look_at_parts(*descriptor))
        return refused;
    if (int refused = finish(*descriptor))
        return refused;
    descriptor->is_finalized = true;
    return WELL;
}

EXPORT int cudnnBackendExecute(Handle *handle, const Descriptor *plan, const Descriptor *pack)
{
    called(__func__);
    if (!handle || !plan || !pack || plan->kind != PLAN || pack->kind != PACK)
        return BAD_PARAMETER;
    if (!plan->is_finalized || !pack->is_finalized)
        return NOT_FINALIZED;
    NEEDS_A_WELL_GPU_OF(handle)
    if (plan->device != handle->device)
        return BAD_PARAMETER;
    if (plan->engine == &UNABLE || !is_supported(*plan->device))
        return NOT_SUPPORTED;
    const Stage &stage = *plan->stage;
    std::map<const Place *, void *> at;
    void *workspace;
    if (int refused = find_all(*pack, stage, at))
        return refused;
    if (int refused = find_workspace(*pack, *plan, workspace))
        return refused;
    Stream &stream = stream_of(handle->stream);
    std::vector<Range> ranges;
    for (auto [place, start] : at) {
        use(start, stream);
        ranges.push_back(place->picture.at(start));
    }
    if (plan->workspace) {
        use(workspace, stream);
        ranges.push_back({workspace, plan->workspace});
    }
    bool is_last = stage.how.x.is_last, is_rounded = stage.is_of_single && plan->engine == &TENSOR_CORES;
    // `first_ms`, `last_ms`: how long each convolution takes in that order at least.
    std::chrono::milliseconds least(stream.device.told(is_last ? "last_ms" : "first_ms", 0));
    // `mixed=1`: it does not do what it is told.
    bool is_mixed = is_last && stream.device.told("mixed", 0);
    Operands operands = {at[&stage.x], at[&stage.w], at[&stage.bias], stage.how.adds ? at[&stage.added] : nullptr, at[&stage.y]};
    // The plan may be gone when its turn comes.
    push_kernel(stream, __func__, std::move(ranges), [how = stage.how, operands, least, is_rounded, is_mixed] {
        std::this_thread::sleep_for(least);
        convolve(how, operands, is_rounded, is_mixed);
        return CUDA_SUCCESS;
    });
    return WELL;
}
